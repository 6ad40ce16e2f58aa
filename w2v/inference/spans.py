"""Pieces of text with their times in whole milliseconds, and the rules that make any times fit for a file.

Subtitle and annotation readers refuse overlaps, empty intervals and times beyond the audio. What a decoder or an
aligner finds is therefore tidied once, here, before it becomes a `result.Transcript`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Text between two times.

    Attributes:
        text: what was said.
        start: first millisecond.
        end: the millisecond after the last one.
    """

    text: str
    start: int
    end: int


def milliseconds(seconds: float) -> int:
    """Return seconds in whole milliseconds, halves rounded up.

    The centres of frames often are such halves. A billionth of a second is added, so that they are rounded up too where
    a sum in floating point fell short of them: the same word has the same time wherever its stretch begins.
    """
    return math.floor(1000 * seconds + 0.5 + 1e-6)


def one_line(text: str) -> str:
    """Return text with every run of white space (line breaks and tabs among it) as one space, none at its ends."""
    return " ".join(text.split())


def tidy_times(times: Iterable[tuple[float, float]], last: int, first: int = 0) -> list[tuple[int, int]]:
    """Sort out times: disjoint, in order, at least one millisecond each, none outside the audio.

    A start never falls below the one before it, and leaves a millisecond for each piece that follows. An end lies
    after its start, and not after the next start.

    Args:
        times: start and end of each piece in seconds, in the order of the text.
        last: where the audio ends, in milliseconds.
        first: where it begins.

    Returns:
        start and end of each in milliseconds. Of more pieces than milliseconds, the last ones have no length.
    """
    rounded = [(milliseconds(start), milliseconds(end)) for start, end in times]
    starts: list[int] = []
    earliest = first
    for number, (start, _) in enumerate(rounded):
        room = last - (len(rounded) - number)
        starts.append(max(min(max(start, earliest), room), first))
        earliest = starts[-1] + 1
    return [
        (start, max(min(max(end, start + 1), following), start))
        for start, (_, end), following in zip(starts, rounded, [*starts, last][1:], strict=True)
    ]


def with_pauses(spans: Sequence[Span], duration: int) -> list[Span]:
    """Return intervals without gaps from 0 to `duration`; what lies between the spans has no text.

    Args:
        spans: tidied; those without length are left out.
        duration: of the audio, in milliseconds.
    """
    intervals: list[Span] = []
    done = 0
    for span in spans:
        if span.start > done:
            intervals.append(Span("", done, span.start))
        if span.end > span.start:
            intervals.append(span)
            done = span.end
    if duration > done:
        intervals.append(Span("", done, duration))
    return intervals
