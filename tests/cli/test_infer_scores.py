"""What `w2v-infer` scores, and against what: references as they are written, and files that sclite counts alike."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import jiwer
import pytest
from peaked_emissions import spell, write_case

from w2v.config import ArgumentParser
from w2v_cli import infer
from w2v_cli.emission_source import SourceConfig
from w2v_cli.infer_output import unique_ids

LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"
SCLITE = Path("/usr/lib/sctk/bin/sclite")


def score(capsys: pytest.CaptureFixture[str], arguments: list[str], *more: str) -> tuple[float, list[str]]:
    """Return the score and the printed texts."""
    assert infer.main([*arguments, *more]) == 0
    captured = capsys.readouterr()
    found = re.findall(r"^(?:WER|CER|BLEU): ([\d.]+)", captured.err, re.MULTILINE)
    return float(found[-1]), [line.split("\t")[1] for line in captured.out.splitlines()]


PHONES = ["h#", "sh", "iy", "hh", "ae", "d", "dcl"]
PHONE_CLIPS = [("a.wav", ["h#", "sh", "iy"], "h# sh iy"), ("b.wav", ["hh", "ae", "d"], "hh ae dcl d")]


def test_symbols_without_a_word_mark_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = write_case(tmp_path, PHONES, PHONE_CLIPS)
    rate, texts = score(capsys, case)
    assert (sorted(texts), round(rate, 2)) == (["h# sh iy", "hh ae d"], 14.29)


@pytest.mark.parametrize("flag", ["--post-process", "--remove-bpe"])
def test_none_is_a_way_to_make_words(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = write_case(tmp_path, list(LETTERS), [("a.wav", spell("HI YOU"), "H I | Y O U |")])
    assert score(capsys, case, flag, "none")[1] == ["H I | Y O U |"]
    assert score(capsys, case, flag, "letter")[1] == ["HI YOU"]


def test_none_is_still_no_value_elsewhere() -> None:
    parser = ArgumentParser(prog="x")
    parser.add_config(SourceConfig, "x")
    values = parser.parse(["data", "--post-process", "none", "--labels", "none", "--path", "null"])
    assert (values["post_process"], values["labels"], values["path"]) == ("none", None, None)


UNKNOWN_CLIPS = [
    ("1.wav", ["C", "A", "F", "<unk>", "|"], "C A F É |"),
    ("2.wav", ["<unk>", "|"], "5 |"),
    ("3.wav", ["<unk>", "<unk>"], "北 京 |"),
    ("4.wav", ["<unk>", "|"], "<unk> |"),
]


@pytest.mark.parametrize(("scoring", "rate"), [("wer", 100.0), ("cer", 100 * 9 / 12)])
def test_an_unknown_symbol_is_never_right(
    scoring: str, rate: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = write_case(tmp_path, list(LETTERS), UNKNOWN_CLIPS)
    assert score(capsys, case, "--scoring", scoring)[0] == pytest.approx(rate, abs=0.01)
    assert infer.main([*case, "--results-path", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out" / "ref.word-hand.pt-valid.txt").read_text(encoding="utf-8")
    assert sorted(line.split(" ")[0] for line in written.splitlines()) == ["5", "<unk>", "CAFÉ", "北京"]
    units = (tmp_path / "out" / "ref.units-hand.pt-valid.txt").read_text(encoding="utf-8")
    assert "C A F É | (None-0)" in units.splitlines()


def test_an_empty_reference_counts_insertions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"1": ("YES NO", "YES NO"), "2": ("UM", ""), "3": ("GO", "GO")}
    clips = [(f"{name}.wav", spell(h), " ".join(spell(r)) if r else "") for name, (h, r) in texts.items()]
    case = write_case(tmp_path, list(LETTERS), clips)
    said, true = zip(*texts.values(), strict=True)
    expected = 100 * jiwer.wer(list(true), list(said))
    assert score(capsys, case)[0] == pytest.approx(expected, abs=0.01)
    assert score(capsys, case, "--per-speaker", "--speaker-from", "prefix:.", "--bootstrap", "50")[0] == pytest.approx(
        expected, abs=0.01
    )


CHINESE = ["今天天气很好我们去公园散步吧", "他昨天在北京买了一本新书", "请问火车站怎么走", "我喜欢喝热茶不喜欢咖啡"]
WRITTEN = ["今天天气很好我们去公园走走吧", "他昨天在北京买了一本书", *CHINESE[2:]]


def test_bleu_and_characters_of_chinese(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    clips = [(f"{i}.wav", list(h), " ".join(r)) for i, (h, r) in enumerate(zip(WRITTEN, CHINESE, strict=True))]
    case = write_case(tmp_path, sorted(set("".join(CHINESE + WRITTEN))), clips)
    for tokenizer in ("zh", "none", "char"):
        glued = score(capsys, case, "--scoring", "bleu", "--sacrebleu-tokenizer", tokenizer, "--post-process", " ")
        expected = sacrebleu.corpus_bleu(WRITTEN, [CHINESE], tokenize=tokenizer).score
        assert glued[0] == pytest.approx(expected, abs=0.005)
    # A dictionary without a word mark keeps characters apart; the spaces between them are no characters of a cer.
    assert score(capsys, case, "--scoring", "cer")[0] == pytest.approx(100 * jiwer.cer(CHINESE, WRITTEN), abs=0.005)
    assert infer.main([*case, "--scoring", "bleu", "--sacrebleu-tokenizer", "zhh"]) == 2
    assert "must be one of 13a, " in capsys.readouterr().err


def test_case_and_punctuation_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    symbols = ["|", *"helodntHcI,.'35"]
    clips = [("a.wav", spell("Hello I don't 3.5"), "h e l l o , | i | d o n ' t | 3 . 5 . |")]
    case = write_case(tmp_path, symbols, clips)
    assert score(capsys, case)[0] == 75.0
    assert score(capsys, case, "--wer-lowercase")[0] == 50.0
    assert score(capsys, case, "--wer-lowercase", "--wer-remove-punct")[0] == 0.0


ODD_TEXTS = [
    ("A { B / C } D", "A B D"), ("(X) Y", "Y"), ("@ A", "A"), (";; ONE", "ONE"), ("A* B", "A B"), ("<O> IT", "IT"),
    ("A; B", "A B"), ("", "WORD"), ("ONLY", ""), ("CAFÉ", "CAFE"), ("a B", "A B"), ("A\\B", "AB"), ("(A)", "(A)"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["trn", "stm"])
def test_sclite_counts_what_we_count(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Marks that mean something to sclite, speakers with spaces, names that become the same, empty texts."""
    if not SCLITE.exists() and shutil.which("sclite") is None:
        pytest.skip("sclite is not installed (Debian package sctk)")
    symbols = sorted({"|", *"".join(f"{true}{said}" for true, said in ODD_TEXTS).replace(" ", "")})
    clips = [
        (f"{'the man' if i % 2 else ';;b'}/clip {i // 4}{'.' if i % 4 > 1 else ' '}x.wav", spell(said) if said else [],
         " ".join(spell(true)) if true else "")
        for i, (true, said) in enumerate(ODD_TEXTS)
    ]  # fmt: skip
    case = write_case(tmp_path, symbols, clips)
    assert infer.main([*case, "--results-path", str(tmp_path / "out"), "--trn", "--ctm"]) == 0
    printed = re.findall(r"(\d+) sub, (\d+) ins, (\d+) del in (\d+) words", capsys.readouterr().out)[0]
    reference, hypothesis = (
        next((tmp_path / "out").glob(f"{name}-*.{kind if name == 'ref' else 'ctm' if kind == 'stm' else kind}"))
        for name in ("ref", "hypo")
    )
    program = str(SCLITE) if SCLITE.exists() else "sclite"
    command = [program, "-e", "utf-8", "-s", "-r", str(reference), kind, "-h", str(hypothesis)]
    command += ["ctm"] if kind == "stm" else ["trn", "-i", "spu_id"]
    out = subprocess.run([*command, "-o", "rsum", "stdout"], capture_output=True, text=True, check=True).stdout
    words, _, substitutions, deletions, insertions = (
        int(number) for number in re.search(r"Sum\s*\|\s*\d+\s+(\d+)\s*\|([\d\s]+)", out).expand(r"\1 \2").split()[:5]
    )  # fmt: skip
    assert (substitutions, insertions, deletions, words) == tuple(map(int, printed))


def test_ids_are_told_apart() -> None:
    assert unique_ids(["a", "b", "A", "a"]) == ["a", "b", "A.2", "a.3"]
