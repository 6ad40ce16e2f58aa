"""A stretch of a recording with its words: `w2v-transcribe --picture` and `w2v-align --picture`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v.data.audio import read_stretch
from w2v.files import write_atomically
from w2v.inference.result import Transcript
from w2v.shards.member import Source

LONGEST = 60.0  # seconds: beyond, words are no longer readable


@dataclass(frozen=True)
class Stretch:
    """What is drawn of a recording, in seconds."""

    start: float = 0.0
    end: float = 20.0


def parse_stretch(value: Any) -> Stretch:
    """Parse `--picture START-END`, in seconds."""
    if isinstance(value, Stretch):
        return value
    start, mark, end = str(value).partition("-")
    try:
        found = Stretch(float(start), float(end))
    except ValueError:
        found = Stretch(0.0, -1.0)
    if not mark or not 0 <= found.start < found.end <= found.start + LONGEST:
        raise ValueError(f"must be START-END in seconds, at most {LONGEST:g} of them, such as 0-20, got {value!r}")
    return found


def write_picture(path: Path, audio: Source, transcript: Transcript, stretch: Stretch) -> None:
    """Draw waveform, spectrogram, words and confidences of a stretch, and write them as a PNG file.

    Args:
        path: the file.
        audio: the recording.
        transcript: of the whole recording.
        stretch: what is drawn of it; what lies beyond its end is left out.

    Raises:
        DataError: the recording cannot be read, or ends before the stretch begins.
        MissingPackageError: matplotlib is not installed.
    """
    from w2v.pictures.canvas import drawing_style, to_png
    from w2v.pictures.clip import Span, draw_clip

    samples = read_stretch(audio, transcript.sample_rate, stretch.start, stretch.end)
    words = [
        Span(word.text, max(word.start, stretch.start), min(word.end, stretch.end), word.confidence)
        for word in transcript.words
        if word.start < stretch.end and word.end > stretch.start
    ]
    with drawing_style():
        figure = draw_clip(str(audio), samples, transcript.sample_rate, words=words, first=stretch.start)
        write_atomically(path, to_png(figure))
