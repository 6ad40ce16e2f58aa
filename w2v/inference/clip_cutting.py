"""A long recording with its text, cut at pauses into clips to train on; what was not heard as written is left out.

Only times and confidences are looked at here; audio and label files are `w2v_cli/align_split`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from w2v.config import arg, check_range
from w2v.inference.result import Word

# Seconds kept before and behind the words of a clip, but no more than half of the pause: CTC hears words late, and lets
# go of them early.
MARGIN = 0.5
SAFE_PAUSE = 0.2  # seconds: a cut in a pause of this length hurts no word


@dataclass(frozen=True)
class CutConfig:
    """Which clips are made of a recording."""

    max_seconds: float = arg(30.0, help="longest clip of --split, in seconds")
    min_seconds: float = arg(1.0, help="shorter clips of --split go to rejects.tsv")

    def __post_init__(self) -> None:
        check_range(self, 0.1, math.inf, "max_seconds")
        check_range(self, 0, math.inf, "min_seconds")


@dataclass(frozen=True)
class CutWord:
    """A word as the cutting sees it.

    Attributes:
        word: with its times.
        reason: why it is no good to train on; empty: it is.
        begins: whether no clip may hold it together with the word before: unknown speech may lie between them.
    """

    word: Word
    reason: str = ""
    begins: bool = False


@dataclass(frozen=True)
class Clip:
    """A piece of a recording.

    Attributes:
        start: in seconds.
        end: in seconds.
        first: number of its first word.
        last: number after its last word.
        reason: why it is no good to train on; empty: it is.
    """

    start: float
    end: float
    first: int
    last: int
    reason: str = ""


def cut_clips(words: Sequence[CutWord], duration: float, config: CutConfig) -> list[Clip]:
    """Cut a recording into clips, in order; each word is in one of them, long silences are in none.

    Words that are no good are parted from the others at the nearest pauses. Of the others, clips are as long as may be,
    and the longer a pause, the rather they are cut there.

    Args:
        words: of the whole recording.
        duration: of the recording, in seconds.
        config: lengths.
    """
    if not words:
        return []
    edges = _edges(words, duration)
    pauses = [math.inf, *(b.word.start - a.word.end for a, b in pairwise(words))]
    reasons = _reasons(words, pauses)
    clips = []
    for first, last in _runs(words, reasons):
        if reasons[first]:
            reason = ", ".join(sorted({words[number].reason for number in range(first, last)} - {""}))
            clips.append(Clip(edges[first][0], edges[last - 1][1], first, last, reason))
            continue
        for start, end in _cuts(edges, pauses, first, last, config.max_seconds):
            clip = Clip(edges[start][0], edges[end - 1][1], start, end)
            length = clip.end - clip.start
            reason = "too short" if length < config.min_seconds else "too long" if length > config.max_seconds else ""
            clips.append(Clip(clip.start, clip.end, start, end, reason))
    return clips


def _edges(words: Sequence[CutWord], duration: float) -> list[tuple[float, float]]:
    """Return where a clip begins that begins with each word, and where one ends that ends with it."""
    times = [word.word for word in words]
    middles = [0.0, *((a.end + b.start) / 2 for a, b in pairwise(times)), duration]
    return [
        (max(word.start - MARGIN, left), min(word.end + MARGIN, right))
        for word, (left, right) in zip(times, pairwise(middles), strict=True)
    ]


def _reasons(words: Sequence[CutWord], pauses: Sequence[float]) -> list[str]:
    """Return why each word is left out; what is not parted by a pause from a word that is no good, is neither."""
    reasons = [word.reason for word in words]
    for places in (range(1, len(words)), range(len(words) - 1, 0, -1)):
        is_forward = places.step > 0
        for place in places:
            source, target = (place - 1, place) if is_forward else (place, place - 1)
            if reasons[source] and pauses[place] < SAFE_PAUSE and not words[place].begins:
                reasons[target] = reasons[target] or reasons[source]
    return reasons


def _runs(words: Sequence[CutWord], reasons: Sequence[str]) -> Iterator[tuple[int, int]]:
    first = 0
    for place in range(1, len(words) + 1):
        if place == len(words) or words[place].begins or bool(reasons[place]) != bool(reasons[place - 1]):
            yield first, place
            first = place


def _cuts(
    edges: Sequence[tuple[float, float]], pauses: Sequence[float], first: int, last: int, longest: float
) -> list[tuple[int, int]]:
    """Part words into clips: each cut costs 1, and the more, the shorter its pause is (dynamic programming)."""
    # Of the words before each place: the least cost, and where the last clip begins.
    best: dict[int, tuple[float, int]] = {first: (0.0, first)}
    for end in range(first + 1, last + 1):
        ways = []
        for start in range(end - 1, first - 1, -1):
            if end - start > 1 and edges[end - 1][1] - edges[start][0] > longest:
                break
            price = 0.0 if start == first else 1 + SAFE_PAUSE / max(pauses[start], 0.01)
            ways.append((best[start][0] + price, start))
        best[end] = min(ways)
    cuts = []
    end = last
    while end > first:
        start = best[end][1]
        cuts.append((start, end))
        end = start
    return cuts[::-1]
