"""How a text is laid over a recording: the options of `w2v-align` and of `w2v.align`."""

from __future__ import annotations

from dataclasses import dataclass

from w2v.config import arg

STAR_PLACES = ("none", "ends", "lines", "words")


@dataclass(frozen=True)
class AlignmentConfig:
    """How a text is laid over a recording."""

    star: str = arg(
        "none",
        help="where the recording may hold speech that the text lacks: ends (before and after the text), lines (also "
        "between its lines), words (also before each word); `*` in the text allows it there",
        choices=STAR_PLACES,
    )
    pad_words: bool = arg(False, help="let words reach to the middle of the pauses around them")
