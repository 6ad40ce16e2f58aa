"""Subtitles: words to cues of readable lines, cues to SRT and WebVTT.

SRT has no standard; the form here is the one that VLC, ffmpeg and browsers' converters agree on. WebVTT is
https://www.w3.org/TR/webvtt1/.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from w2v.config import arg, check_range
from w2v.inference.spans import Span


@dataclass(frozen=True)
class SubtitleStyle:
    """How words are laid out in cues; the defaults are those of broadcasters."""

    max_line_width: int = arg(42, help="most characters in a line of subtitles; 0: one cue per segment, unbroken")
    max_line_count: int = arg(2, help="most lines in a cue")
    max_cue_seconds: float = arg(7.0, help="longest cue, in seconds")
    max_cue_pause: float = arg(1.0, help="a longer pause begins a new cue, in seconds")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "max_line_width", "max_cue_pause")
        check_range(self, 1, math.inf, "max_line_count")
        check_range(self, 0.1, math.inf, "max_cue_seconds")


def cues(segments: Iterable[Sequence[Span]], style: SubtitleStyle) -> list[Span]:
    """Lay words out in cues; lines of a cue are parted by a line feed.

    A cue ends with its segment, and before a pause. Between those, the words are spread over cues such that as few
    as possible hold one word alone, and then that there are as few cues as possible.

    Args:
        segments: the words of each segment, tidied.
        style: the limits. One word that breaks them alone is a cue of its own.
    """
    found: list[Span] = []
    for words in segments:
        if not words:
            continue
        if not style.max_line_width:
            found.append(Span(_joined(words), words[0].start, words[-1].end))
            continue
        for block in _between_pauses(words, 1000 * style.max_cue_pause):
            for part in _spread(block, style):
                lines = _lines(tuple(word.text for word in part), style.max_line_width, style.max_line_count)
                # A word that is wider than a line, alone.
                text = "\n".join(lines) if lines is not None else _joined(part)
                found.append(Span(text, part[0].start, part[-1].end))
    return found


def srt(spans: Iterable[Span]) -> str:
    """Return a SubRip file. It has no escapes, so that an arrow `-->` in a text becomes `->`."""
    blocks = []
    for number, span in enumerate(spans, 1):
        text = span.text
        while "-->" in text:
            text = text.replace("-->", "->")
        blocks.append(f"{number}\n{_clock(span.start, ',')} --> {_clock(span.end, ',')}\n{text}\n\n")
    return "".join(blocks)


def vtt(spans: Iterable[Span]) -> str:
    """Return a WebVTT file."""
    blocks = ["WEBVTT\n\n"]
    for span in spans:
        text = span.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(span.start, '.')} --> {_clock(span.end, '.')}\n{text}\n\n")
    return "".join(blocks)


def _clock(milliseconds: int, mark: str) -> str:
    """Return HH:MM:SS and milliseconds behind `mark`; hours take as many digits as they need."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{rest:03d}"


def _joined(words: Sequence[Span]) -> str:
    return " ".join(word.text for word in words)


def _between_pauses(words: Sequence[Span], longest: float) -> list[Sequence[Span]]:
    edges = [i for i in range(1, len(words)) if words[i].start - words[i - 1].end > longest]
    return [words[i:j] for i, j in zip([0, *edges], [*edges, len(words)], strict=True)]


def _spread(words: Sequence[Span], style: SubtitleStyle) -> list[Sequence[Span]]:
    """Part words into cues by dynamic programming: least (cues of one word, cues, unevenness) over all ways."""
    sizes = [0, *accumulate(len(word.text) + 1 for word in words)]
    # Of the first n words: the cost, and where the last cue begins.
    best: list[tuple[tuple[int, int, int], int]] = [((0, 0, 0), 0)]
    for end in range(1, len(words) + 1):
        ways = []
        for start in range(end - 1, -1, -1):
            if end - start > 1 and not _fits(words[start:end], style):
                break
            lone, count, uneven = best[start][0]
            size = sizes[end] - sizes[start] - 1
            ways.append(((lone + (end - start == 1), count + 1, uneven + size * size), start))
        best.append(min(ways))
    parts: list[Sequence[Span]] = []
    end = len(words)
    while end:
        start = best[end][1]
        parts.append(words[start:end])
        end = start
    return parts[::-1]


def _fits(words: Sequence[Span], style: SubtitleStyle) -> bool:
    if words[-1].end - words[0].start > 1000 * style.max_cue_seconds:
        return False
    return _lines(tuple(word.text for word in words), style.max_line_width, style.max_line_count) is not None


@lru_cache(maxsize=4096)
def _lines(words: tuple[str, ...], width: int, count: int) -> tuple[str, ...] | None:
    """Break words into at most `count` lines of `width` characters; None: they do not fit.

    Of the breaks that fit, the last one whose lower line is the longer; without one, the last that fits.
    """
    whole = " ".join(words)
    if len(whole) <= width:
        return (whole,)
    if count == 1:
        return None
    fallback = None
    for place in range(len(words) - 1, 0, -1):
        lower = " ".join(words[place:])
        if len(lower) > width:
            break
        upper = _lines(words[:place], width, count - 1)
        if upper is None:
            continue
        if len(lower) >= len(upper[-1]):
            return (*upper, lower)
        fallback = fallback or (*upper, lower)
    return fallback
