"""Spoken digits joined into one recording with pauses, with the true boundaries of each word."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

RATE = 16000
LONGEST_LEAD = int(0.32 * RATE)  # silence at the beginning of a clip


@dataclass(frozen=True)
class JoinedDigits:
    """One recording.

    Attributes:
        samples: (S,) float32 at 16 kHz.
        lines: the words of each clip.
        starts: second in which the recording of each word begins.
        ends: second in which it ends.
    """

    samples: npt.NDArray[np.float32]
    lines: list[str]
    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]


def join_digits(data: Path, subset: str = "digits_valid_seen", max_clips: int | None = None) -> JoinedDigits:
    """Join the clips of a subset, with digital silence of 0.5 to 2 s behind each.

    A recipe says which isolated recordings a clip was made of and how far apart they are; where exactly they lie is
    found by correlation.

    Args:
        data: folder of real speech.
        subset: connected digits, with `recipe.tsv`.
        max_clips: clips to be joined; None: all.
    """
    import soundfile

    with open(data / subset / "recipe.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[:max_clips]
    transcripts = (data / subset / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    texts = dict(line.split("\t") for line in transcripts)
    random = np.random.default_rng(0)
    parts: list[npt.NDArray[np.float32]] = []
    spans: list[tuple[float, float]] = []
    now = 0
    for row in rows:
        clip = soundfile.read(data / subset / row["path"], dtype="float32")[0]
        place, slack = 0, LONGEST_LEAD
        gaps = [*(int(gap) for gap in row["gaps_ms"].split()), 0]
        for name, gap in zip(row["recordings"].split(), gaps, strict=True):
            word = soundfile.read(data / "fsdd16k" / row["speaker"] / f"{name}.flac", dtype="float32")[0]
            near = clip[place : place + slack + len(word)]
            place += int(np.correlate(near, word, "valid").argmax())
            spans.append(((now + place) / RATE, (now + place + len(word)) / RATE))
            # Gaps are given in whole milliseconds.
            place, slack = place + len(word) + gap * RATE // 1000 - 16, 32
        silence = np.zeros(int(random.uniform(0.5, 2.0) * RATE), dtype=np.float32)
        parts += [clip, silence]
        now += len(clip) + len(silence)
    starts, ends = np.array(spans).T
    return JoinedDigits(np.concatenate(parts), [texts[row["path"]] for row in rows], starts, ends)
