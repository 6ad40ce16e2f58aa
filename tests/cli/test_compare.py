"""`w2v-infer compare`: rates, the paired interval against a plain loop, and folders that do not fit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from w2v.functional.edit_distance import edit_distance
from w2v.rng import numpy_generator
from w2v_cli import infer


def write(folder: Path, references: list[str], texts: list[str], *, suffix: str = "m.pt-test", shards: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    rows = np.random.default_rng(1).permutation(len(texts)).tolist()  # files are in the order of batches
    for kind, lines in (("ref.word", references), ("hypo.word", texts)):
        for shard in range(shards):
            prefix = f"{shard}_" if shards > 1 else ""
            text = "".join(f"{lines[row]} (None-{row})\n" for row in rows[shard::shards])
            (folder / f"{prefix}{kind}-{suffix}.txt").write_text(text, encoding="utf-8")
    return folder


def noisy(references: list[str], share: float, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join("x" if rng.random() < share else word for word in text.split()) for text in references]


@pytest.fixture
def references() -> list[str]:
    rng = np.random.default_rng(5)
    return [" ".join(rng.choice(list("abcdefg"), size=rng.integers(0, 12))) for _ in range(150)]


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = infer.main(["compare", *map(str, arguments)])
    found = capsys.readouterr()
    assert code == 0, found.err
    return found.out


def test_the_interval_is_that_of_a_plain_loop(
    references: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each drawing takes the same sentences of both systems; rates come from summed counts."""
    texts = [noisy(references, 0.2, 1), noisy(references, 0.15, 2)]
    one, two = (write(tmp_path / name, references, text) for name, text in zip("ab", texts, strict=True))
    out = said(capsys, one, two, "--bootstrap", 400, "--seed", 3)
    errors = [[edit_distance(r.split(), t.split()) for r, t in zip(references, text, strict=True)] for text in texts]
    lengths = [len(text.split()) for text in references]
    rng, differences = numpy_generator(3, "bootstrap"), []
    for drawn in rng.integers(len(lengths), size=(400, len(lengths))):
        words = sum(lengths[i] for i in drawn)
        rates = [100 * sum(wrong[i] for i in drawn) / words for wrong in errors]
        differences.append(rates[1] - rates[0])
    low, high = np.quantile(differences, [0.025, 0.975])
    whole = 100 * (sum(errors[1]) - sum(errors[0])) / sum(lengths)
    assert f"{whole:+.2f} % absolute, 95% interval {low:+.2f} to {high:+.2f}" in out
    share = np.mean(np.array(differences) < 0)
    assert f"second better in {share:.1%} of 400 drawings" in out
    assert f"WER: {100 * sum(errors[0]) / sum(lengths):.2f} %" in out


def test_pairing_sees_what_two_intervals_do_not(
    references: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One error less in every fifth sentence of a hard set: sure, though both rates alone are within 3 %."""
    first = noisy(references, 0.5, 1)
    second = [text.replace("x", reference.split()[text.split().index("x")], 1) if "x" in text and i % 5 == 0 else text
              for i, (text, reference) in enumerate(zip(first, references, strict=True))]  # fmt: skip
    out = said(capsys, write(tmp_path / "a", references, first), write(tmp_path / "b", references, second))
    assert "the second is better" in out
    same = said(capsys, tmp_path / "a", tmp_path / "a")
    assert "+0.00 % absolute, 95% interval +0.00 to +0.00" in same
    assert "chance may explain" in same


def test_shards_and_subsets(references: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = noisy(references, 0.2, 1)
    whole, parts = write(tmp_path / "a", references, texts), write(tmp_path / "b", references, texts, shards=3)
    assert "+0.00 % absolute" in said(capsys, whole, parts)
    write(parts, references, texts, suffix="m.pt-other")
    assert infer.main(["compare", str(whole), str(parts)]) == 2
    assert "choose one with --gen-subset" in capsys.readouterr().err
    assert "CER" in said(capsys, whole, parts, "--gen-subset", "test", "--scoring", "cer")


def test_only_newlines_end_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["a\u2028b", "c\x0cd", "e\x85f"]  # what str.splitlines would cut
    folder = write(tmp_path / "a", texts, texts)
    assert "WER: 0.00" in said(capsys, folder, folder, "--bootstrap", "10")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], r"holds no ref\.word-"),
        (lambda folder: (folder / "hypo.word-m.pt-test.txt").write_text("a b\n"), r"txt:1: must end in \(None-ROW\)"),
        (
            lambda folder: (folder / "hypo.word-m.pt-test.txt").write_text("a (None-0)\n"),
            "1 transcripts of other clips",
        ),
        (lambda folder: write(folder, ["other"] * 150, ["a"] * 150), r"the reference of clip \d+ is 'other'"),
    ],
)
def test_folders_that_do_not_fit(
    references: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, wanted: str
) -> None:
    one, two = (write(tmp_path / name, references, references) for name in "ab")
    change(two)  # type: ignore[operator]
    assert infer.main(["compare", str(one), str(two)]) == 2
    line = capsys.readouterr().err
    assert re.search(wanted, line), line
    assert line.count("\n") == 1


def test_bad_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, wanted in (
        ([tmp_path], "needs two result folders"),
        ([tmp_path] * 2 + ["--scoring", "bleu"], "wer or cer"),
    ):
        assert infer.main(["compare", *map(str, flags)]) == 2
        assert wanted in capsys.readouterr().err
