"""Alignments against sclite's: recorded ones, and fresh ones where NIST's tools are installed (Debian: sctk)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from w2v.functional.edit_distance import EditCounts, edit_counts
from w2v.scoring.alignment import alignment_lines

RECORDED = json.loads((Path(__file__).resolve().parents[1] / "assets" / "sclite.json").read_text(encoding="utf-8"))


def sclite(folder: Path, pairs: list[tuple[list[str], list[str]]]) -> list[list[str]]:
    """Return the lines that sclite prints for each pair: counts, reference, reading, marks."""
    if shutil.which("sctk") is None:
        pytest.skip("sclite is not installed (Debian package sctk)")
    for name, column in (("ref", 0), ("hyp", 1)):
        lines = [f"{' '.join(pair[column])} (s-{number:05d})\n" for number, pair in enumerate(pairs)]
        (folder / name).write_text("".join(lines))
    command = f"sctk sclite -r {folder}/ref trn -h {folder}/hyp trn -i spu_id -s -o pra stdout"
    out = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
    blocks = re.findall(r"id: .*\n(Scores.*)\n(?:Attributes.*\n)?(REF.*)\n(HYP.*)\n(Eval.*)\n", out)
    return [[line.rstrip() for line in block] for block in blocks]


def noisy_pairs(number: int, rate: float, seed: int) -> list[tuple[list[str], list[str]]]:
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(30)]
    pairs = []
    for _ in range(number):
        reference = [words[i] for i in rng.integers(30, size=rng.integers(1, 25))]
        hypothesis: list[str] = []
        for word in reference:
            change = rng.random() / rate
            if change >= 1:
                hypothesis.append(word)
            elif change >= 1 / 3:
                hypothesis += [words[i] for i in rng.integers(30, size=1 if change < 2 / 3 else 2)]
        pairs.append((reference, hypothesis))
    return pairs


@pytest.mark.parametrize("case", RECORDED["alignments"], ids=lambda case: case["reference"])
def test_recorded_alignments(case: dict[str, str]) -> None:
    assert alignment_lines(case["reference"].split(), case["hypothesis"].split()) == case["lines"]


def test_recorded_counts() -> None:
    """Of sentences with a third of their words wrong."""
    total = EditCounts()
    for reference, hypothesis in noisy_pairs(**RECORDED["noisy"]["arguments"]):
        total += edit_counts(reference, hypothesis)
    assert vars(total) == RECORDED["noisy"]["counts"]


def test_sclite_aligns_alike(tmp_path: Path) -> None:
    pairs = noisy_pairs(300, 0.3, seed=1)
    for (reference, hypothesis), lines in zip(pairs, sclite(tmp_path, pairs), strict=True):
        assert alignment_lines(reference, hypothesis) == lines
