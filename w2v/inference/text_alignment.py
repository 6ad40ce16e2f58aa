"""A text laid over the emissions of its recording: when each word and each letter was said, and whether it was.

The text is spelled by `spelling`, the path found by `functional/ctc_alignment`, times are tidied by `result`. Words that
cannot be spelled get a wildcard, and where there is no room for one, the time between their neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import numpy.typing as npt
from torch import Tensor

from w2v.config import arg
from w2v.data.dictionary import Dictionary
from w2v.errors import ConfigError, DataError
from w2v.functional.ctc_alignment import CtcAlignment, forced_align, min_window_score, with_star
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.result import Char, Segment, Transcript, Word, tidy
from w2v.inference.spelling import WILDCARD, SpelledText, SpelledWord, Speller, Symbol

STAR = -2  # stands for anything, a pause among it
STAR_PLACES = ("none", "ends", "lines", "words")
Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class AlignmentConfig:
    """How a text is laid over a recording."""

    star: str = arg(
        "none",
        help="where speech that the text lacks is allowed: at its ends, also between its lines, or before each word "
        "(`*` in the text allows it there)",
        choices=STAR_PLACES,
    )
    pad_words: bool = arg(False, help="let words reach to the middle of the pauses around them")


@dataclass(frozen=True)
class TextAlignment:
    """A text with its times.

    Attributes:
        transcript: one segment for each line of the text.
        spelling: the text in symbols.
        likely_cause: why no word may fit, where this can be seen in the text.
    """

    transcript: Transcript
    spelling: SpelledText

    @property
    def median_confidence(self) -> float:
        """Median over the words that were heard; 0 where none was spelled."""
        return median([word.confidence for word in self.transcript.words if not word.interpolated] or [0.0])


class TextAligner:
    """Lays texts over the emissions of one model.

    Args:
        info: what the emissions have in common.
        config: the options.

    Raises:
        ConfigError: the model does not tell when its frames are.
    """

    def __init__(self, info: EmissionInfo, config: AlignmentConfig | None = None) -> None:
        if not info.stride:
            raise ConfigError(f"the model {info.model} does not tell when its frames are")
        self.info = info
        self.config = config or AlignmentConfig()
        self.speller = Speller(Dictionary(info.symbols), info.post_process)

    def spell(self, lines: Sequence[str], file: str) -> SpelledText:
        """Spell a text.

        Raises:
            DataError: it has no words.
        """
        spelling = self.speller.spell(lines)
        if not any(not word.is_star for line in spelling.lines for word in line):
            raise DataError(f"{file}: its text has no words")
        return spelling

    def align(
        self, log_probs: Tensor | Scores, num_samples: int, lines: Sequence[str], file: str = ""
    ) -> TextAlignment:
        """Find the times of a text.

        Args:
            log_probs: (T, V) normalised log-probabilities of the whole recording.
            num_samples: samples of the recording.
            lines: the text; each line with words becomes a segment.
            file: name of the recording, for messages and files.

        Raises:
            DataError: the text has no words or does not fit into the frames; or the emissions hold NaN.
        """
        spelling = self.spell(lines, file)
        targets = _targets(spelling, self.config.star)
        try:
            check_length(len(log_probs), targets.labels)
        except DataError:
            # Without its wildcards, the text may fit.
            targets = targets.without_wildcards()
        try:
            check_length(len(log_probs), targets.labels)
            aligned = forced_align(*_with_columns(log_probs, targets.labels))
        except DataError as e:
            raise DataError(f"{file}: {e}" if file else str(e)) from e
        duration = num_samples / self.info.sample_rate
        words = self._words(spelling, targets, aligned, duration)
        segments = tidy(words, duration)
        transcript = Transcript(file, duration, segments, self.info.model, self.info.sample_rate)
        return TextAlignment(transcript, spelling)
