"""`w2v-lm`: models that KenLM and flashlight read, lexicons, perplexities, and one line for each mistake."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2v.lm.arpa import read_arpa
from w2v.lm.lexicon import read_lexicon
from w2v_cli.lm import main

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = "THE CAT SAT\nTHE CAT'S HAT\n\nA HAT SAT ON THE CAT\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(TEXT)
    return path


def test_model_from_a_file(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arpa = text.with_name("model.arpa")
    assert main([str(text), "--order", "3", "--arpa", str(arpa)]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "4 lines, 12 words, 7 of them different" in shown.err
    assert "so the fallback" in shown.err
    model = read_arpa(str(arpa))
    assert list(model.vocabulary) == ["<unk>", "<s>", "</s>", "THE", "CAT", "SAT", "CAT'S", "HAT", "A", "ON"]
    assert len(model.tables) == 3


def test_standard_input_several_files_and_the_flags_of_lmplz(text: Path) -> None:
    arpa, packed = text.with_name("model.arpa"), text.with_name("text.gz")
    packed.write_bytes(gzip.compress(TEXT.encode(), mtime=0))
    options = ["-o", "2", "--discount_fallback", "--prune", "0", "1", "--limit_vocab_file", str(text)]
    assert main([*options, "--text", str(text), "--arpa", str(arpa)]) == 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "w2v_cli.lm", *options, "--quiet"]
    piped = subprocess.run(command, input=packed.read_bytes(), capture_output=True, env=environment, check=True)
    assert piped.stdout == arpa.read_bytes()
    assert piped.stderr == b""
    # Texts may stand before and after flags.
    twice, one = text.with_name("twice.arpa.gz"), text.with_name("one.arpa")
    assert main([str(text), "--arpa", str(twice), "-o", "2", str(packed)]) == 0
    text.write_text(TEXT * 2)
    assert main([str(text), "--arpa", str(one), "-o", "2"]) == 0
    assert gzip.decompress(twice.read_bytes()) == one.read_bytes()


def test_discounts_and_limits_matter(text: Path) -> None:
    def model(*options: str) -> bytes:
        assert main([str(text), "-o", "2", "--arpa", str(text.with_name("m")), "--quiet", *options]) == 0
        return text.with_name("m").read_bytes()

    assert model() == model("--discount-fallback", "0.5", "1", "1.5")
    assert model() != model("--discount-fallback", "0.4")
    text.with_name("few").write_text("THE CAT\n<unk>")
    limited = model("--limit-vocab", str(text.with_name("few")))
    assert b"CAT\t" in limited
    assert b"HAT" not in limited


def test_kenlm_and_flashlight_read_the_model(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kenlm = pytest.importorskip("kenlm")
    arpa = text.with_name("model.arpa")
    assert main([str(text), "--order", "3", "--arpa", str(arpa), "--quiet"]) == 0
    model = kenlm.Model(str(arpa))
    assert model.order == 3
    assert main(["--perplexity", str(text), "--lm", str(arpa), "--quiet"]) == 0
    lines = TEXT.splitlines()
    total, tokens = sum(model.score(line) for line in lines), sum(len(line.split()) + 1 for line in lines)
    rows = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert float(rows["Perplexity including OOVs:"]) == pytest.approx(10 ** (-total / tokens), rel=1e-5)
    assert (rows["OOVs:"], rows["Tokens:"]) == ("0", str(tokens))
    reader = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    words = pytest.importorskip("flashlight.lib.text.dictionary").Dictionary(["CAT", "THE"])
    theirs = reader.KenLM(str(arpa), words)
    score = theirs.score(theirs.start(False), words.get_index("THE"))[1]
    assert score == pytest.approx(next(model.full_scores("THE", eos=False))[0], abs=1e-5)


def test_perplexity_counts_unknown_words(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arpa, held_out = text.with_name("model.arpa"), text.with_name("held_out")
    held_out.write_text("THE DOG SAT\nDOG")
    assert main([str(text), "--order", "2", "--arpa", str(arpa), "--quiet"]) == 0
    assert main([str(held_out), "--lm", str(arpa), "--perplexity", "--quiet"]) == 0
    rows = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert (rows["OOVs:"], rows["Tokens:"]) == ("2", "6")
    assert float(rows["Perplexity excluding OOVs:"]) < float(rows["Perplexity including OOVs:"])


def test_lexicon_of_words_and_models(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arpa, lexicon, letters = text.with_name("model.arpa"), text.with_name("lexicon"), text.with_name("dict.ltr.txt")
    assert main([str(text), "--arpa", str(arpa), "--quiet"]) == 0
    assert main(["--lexicon", str(lexicon), str(text)]) == 0
    assert lexicon.read_text().splitlines()[3] == "CAT'S\tC A T ' S |"
    from_text = lexicon.read_bytes()
    assert main(["--lexicon", str(lexicon), str(arpa)]) == 0
    assert lexicon.read_bytes() == from_text
    assert len(read_lexicon(str(lexicon), [*"THECASONU'", "|"])) == 7
    # Words in the case of the dictionary; those with other letters are left out, and counted.
    letters.write_text("".join(f"{letter} 1\n" for letter in "|thecasonu"))
    capsys.readouterr()
    assert main(["--lexicon", str(lexicon), str(text), "--dict", str(letters)]) == 0
    assert "spelled 6 words" in (shown := capsys.readouterr().err)
    assert "in lower case (1 left out" in shown
    assert lexicon.read_text().splitlines()[0] == "the\tt h e |"
    letters.write_text("| 1\nж 1\n", encoding="utf-8")
    assert main(["--lexicon", str(lexicon), str(text), "--dict", str(letters)]) == 2
    assert "0% of its words can be spelled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "cannot read the text none"),
        (["TEXT", "--order", "7"], "--order must lie in [1, 6], got 7"),
        (["TEXT", "--prune", "1", "0"], "--prune: each number must be at least the one before, got 1 0"),
        (["TEXT", "-o", "2", "--prune", "0", "0", "0"], "--prune: 3 numbers for a model of order 2"),
        (["--prune", "0", "1", "TEXT"], "texts are named before it"),
        (["TEXT", "--discount-fallback", "2"], "--discount-fallback: needs up to three discounts"),
        (["TEXT", "--discount-fallback", "x"], "--discount-fallback: "),
        (["TEXT", "--arpa", "none/model.arpa"], "--arpa: no folder none"),
        (["TEXT", "--perplexity"], "--perplexity needs --lm FILE"),
        (["TEXT", "--lm", "x"], "--lm goes with --perplexity"),
        (["TEXT", "--dict", "x"], "--dict goes with --lexicon"),
        (["TEXT", "--perplexity", "--lm", "missing"], "--lm: no file missing"),
        (["TEXT", "--perplexity", "--lm", "x", "--lexicon", "y"], "--perplexity and --lexicon are two tasks"),
        (["--lexicon", "x", "none"], "none"),
        (["EMPTY"], "the text has no line"),
        (["EMPTY", "--lexicon", "x"], "no words"),
        (["TEXT", "--ordr", "2"], "error: unknown flag --ordr; did you mean --order?"),
    ],
)
def test_mistakes_are_one_line(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(text.parent)
    monkeypatch.setattr(sys, "argv", ["w2v-lm"])
    (text.parent / "EMPTY").touch()
    text.rename("TEXT")
    assert main([*arguments, "--quiet"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert message in shown.err
