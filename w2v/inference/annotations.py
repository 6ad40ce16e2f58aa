"""Annotation files: Praat's TextGrid, NIST's CTM, and tables of tab-separated values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from w2v.inference.spans import Span, with_pauses


def textgrid(tiers: Mapping[str, Sequence[Span]], duration: int) -> str:
    """Return a TextGrid in Praat's long text form.

    Args:
        tiers: name -> tidied spans; what lies between them becomes an interval without text.
        duration: of the audio, in milliseconds. Praat knows no grid of zero length: empty audio has one millisecond.
    """
    duration = max(duration, 1)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {_seconds(duration)}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, spans) in enumerate(tiers.items(), 1):
        intervals = with_pauses(spans, duration)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {_seconds(duration)}"]
        lines.append(f"        intervals: size = {len(intervals)}")
        for place, interval in enumerate(intervals, 1):
            lines.append(f"        intervals [{place}]:")
            lines.append(f"            xmin = {_seconds(interval.start)}")
            lines.append(f"            xmax = {_seconds(interval.end)}")
            lines.append(f"            text = {_quoted(interval.text)}")
    return "\n".join(lines) + "\n"


def ctm(file: str, words: Iterable[tuple[Span, float]]) -> str:
    """Return lines of NIST's CTM: file, channel (always 1), start, duration, word, confidence.

    Args:
        file: the audio's name; its folders and its ending are left out, a space in it becomes `_`.
        words: each with its confidence.
    """
    name = re.sub(r"^;+|\s", "_", PurePath(file).stem) or "_"  # `;;` begins a comment
    lines = []
    for span, confidence in words:
        start, length = span.start / 1000, (span.end - span.start) / 1000
        word = re.sub(r"\s", "_", span.text)
        lines.append(f"{name} 1 {start:.3f} {length:.3f} {word} {confidence:.3f}\n")
    return "".join(lines)


def tsv(spans: Iterable[Span]) -> str:
    """Return a table of start, end (both in milliseconds) and text, as whisper writes it."""
    rows = (f"{span.start}\t{span.end}\t{span.text.replace(chr(9), ' ')}\n" for span in spans)
    return "start\tend\ttext\n" + "".join(rows)


def _seconds(milliseconds: int) -> str:
    """Return seconds in as few digits as they need: a reader compares `xmax` of neighbours as text."""
    return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
