"""A text laid over the emissions of its recording: when each word and each letter was said, and whether it was.

The text is spelled by `spelling`, the path found by `functional/ctc_alignment`, times tidied by `result`. Words that
cannot be spelled get a wildcard; those that cannot be heard, or for which there is no room, the time between their
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean, median

import numpy as np
import numpy.typing as npt
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.errors import ConfigError, DataError
from w2v.functional.ctc_alignment import CtcAlignment, fewest_frames, forced_align, min_window_score, with_star
from w2v.inference.align_options import AlignmentConfig
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.result import Char, Segment, Transcript, Word, tidy
from w2v.inference.spelling import WILDCARD, SpelledText, SpelledWord, Speller

STAR = -2  # stands for anything, also for silence; `WILDCARD` for something that was said
BETWEEN = -3  # a star between two words: were it to take all for nothing, words would be found in foreign speech
STARS = (STAR, BETWEEN)
LONGEST_LETTER = 1.0  # seconds, in the mean over a word
Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class TextAlignment:
    """A text with its times.

    Attributes:
        transcript: one segment for each line of the text.
        spelling: the text in symbols.
    """

    transcript: Transcript
    spelling: SpelledText

    @property
    def median_confidence(self) -> float:
        """Median over the letters; 0 where there are none.

        In a text that was not said, some letters are heard by chance. They raise the mean, and the confidence of words.
        Where it is also much shorter than the recording, all its letters are found somewhere, but far apart: those of
        words that last longer than any word count as 0.
        """
        words = self.transcript.words
        letters = [0.0 if is_stretched(word) else char.confidence for word in words for char in word.chars]
        return median(letters or [0.0])


def is_stretched(word: Word) -> bool:
    """Whether a word lasts longer than any word that is said at once."""
    return word.end - word.start > LONGEST_LETTER * max(len(word.chars), 1)


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

    def spell(self, lines: Sequence[str], num_frames: int) -> SpelledText:
        """Spell a text and check that it fits. This takes no time; do it before the emissions are computed.

        Raises:
            DataError: the text has no words, or needs more frames.
        """
        spelling = self.speller.spell(lines)
        if all(word.is_star for line in spelling.lines for word in line):
            raise DataError("the text has no words")
        labels = _targets(spelling, self.config.star, with_wildcards=False).labels
        needed = fewest_frames(labels)
        if num_frames < needed:
            raise DataError(
                f"{num_frames} frames of {1000 * self.info.stride / self.info.sample_rate:g} ms are too few for a text "
                f"of {len(labels)} symbols with {needed - len(labels)} equal neighbours, which needs {needed}; "
                "perhaps it is the text of another recording"
            )
        return spelling

    def align(
        self, log_probs: Tensor | Scores, num_samples: int, lines: Sequence[str], file: str = ""
    ) -> TextAlignment:
        """Find the times of a text.

        Args:
            log_probs: (T, V) log-probabilities of the whole recording.
            num_samples: samples of the recording.
            lines: the text; each line that has words becomes a segment.
            file: name of the recording.

        Raises:
            DataError: the text does not fit, or the emissions are no numbers.
        """
        spelling = self.spell(lines, len(log_probs))
        targets = _targets(spelling, self.config.star)
        if fewest_frames(targets.labels) > len(log_probs):
            targets = _targets(spelling, self.config.star, with_wildcards=False)
        aligned = forced_align(*_with_columns(log_probs, np.array(targets.labels, dtype=np.int64)))
        lines_of_words = [[word for word in line if not word.is_star] for line in spelling.lines]
        places = iter(targets.places)
        placed = [[self._word(word, next(places), targets, aligned) for word in line] for line in lines_of_words]
        duration = num_samples / self.info.sample_rate
        words = _interpolated(placed, lines_of_words, duration)
        if self.config.pad_words:
            words = _padded(words, duration)
        segments = [
            Segment(tuple(line), _line_score(line_places, aligned))
            for line, line_places in zip(words, _by_lines(targets.places, words), strict=True)
            if line
        ]
        tidied = tidy(segments, duration)
        is_padded = self.config.pad_words
        transcript = Transcript(file, duration, tidied, self.info.model, self.info.sample_rate, is_padded)
        return TextAlignment(transcript, spelling)

    def _word(self, word: SpelledWord, places: list[int], targets: _Targets, aligned: CtcAlignment) -> Word | None:
        """Return a word with its times; None where it has no place on the path."""
        if not places:
            return None
        seconds = self.info.seconds
        chars = tuple(
            Char(
                targets.texts[place],
                seconds(int(aligned.starts[place])),
                seconds(int(aligned.ends[place])),
                float(aligned.confidences[place]),
            )
            for place in places
            if targets.texts[place]
        )
        confidence = fmean([char.confidence for char in chars] or aligned.confidences[places].tolist())
        start, end = seconds(int(aligned.starts[places[0]])), seconds(int(aligned.ends[places[-1]]))
        return Word(word.text, start, end, confidence, chars, interpolated=not chars)


@dataclass
class _Targets:
    """The labels of a text.

    Attributes:
        labels: columns, `WILDCARD`, `STAR` and `BETWEEN`.
        texts: letters that each label stands for.
        places: of each word, the labels that are said; marks between words are not.
    """

    labels: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)

    def add(self, label: int, text: str = "") -> None:
        # Two stars in a row say no more than one.
        if label in STARS and self.labels and self.labels[-1] in STARS:
            self.labels[-1] = STAR if STAR in (label, self.labels[-1]) else BETWEEN
            return
        self.labels.append(label)
        self.texts.append(text)

    def add_word(self, word: SpelledWord, *, with_wildcards: bool) -> None:
        for symbol in word.symbols:
            is_said = bool(symbol.text) or symbol.label == WILDCARD
            if symbol.label != WILDCARD or with_wildcards:
                self.places[-1] += [len(self.labels)] if is_said else []
                self.add(symbol.label, symbol.text)


def _targets(spelling: SpelledText, star: str, *, with_wildcards: bool = True) -> _Targets:
    found = _Targets()
    for number, line in enumerate(spelling.lines):
        if star == "lines" or (star in ("ends", "words") and not number):
            found.add(STAR)
        for word in line:
            if word.is_star or star == "words":
                found.add(STAR if word.is_star else BETWEEN)
            if word.is_star:
                continue
            found.places.append([])
            if with_wildcards or any(symbol.text for symbol in word.symbols):
                found.add_word(word, with_wildcards=with_wildcards)
    if star != "none":
        found.add(STAR)
    return found


def _with_columns(log_probs: Tensor | Scores, labels: npt.NDArray[np.int64]) -> tuple[Tensor | Scores, Scores]:
    """Return log-probabilities with a column for the wildcard and those of the stars, where they are needed."""
    scores: Tensor | Scores = log_probs
    columns = labels.copy()
    for kinds, kind in (((WILDCARD, BETWEEN), "max"), ((STAR,), "zero")):
        are_these = np.isin(labels, kinds)
        if are_these.any():
            columns[are_these] = scores.shape[1]
            scores = with_star(scores, kind)
    return scores, columns


def _by_lines(places: list[list[int]], lines: list[list[Word]]) -> list[list[int]]:
    """Return the places of all labels that are said in each line."""
    rest = iter(places)
    return [[place for _ in line for place in next(rest)] for line in lines]


def _line_score(places: list[int], aligned: CtcAlignment) -> float | None:
    if not places:
        return None
    return min_window_score(aligned.scores[aligned.starts[places[0]] : aligned.ends[places[-1]]])


def _interpolated(placed: list[list[Word | None]], lines: list[list[SpelledWord]], duration: float) -> list[list[Word]]:
    """Give words without a place the time between their neighbours.

    Words that were said, but for which there was no room, share that time equally. A silent one, such as a dash, takes
    none: it stands at the end of the word before it, or, at the beginning of a line, at the start of the next word.
    """
    words = [word for line in placed for word in line]
    spelled = [word for line in lines for word in line]
    begins = [not number for line in lines for number in range(len(line))]
    found: list[Word] = []
    while len(found) < len(words):
        first = len(found)
        word = words[first]
        if word is not None:
            found.append(word)
            continue
        last = next((number for number in range(first, len(words)) if words[number] is not None), len(words))
        following = words[last] if last < len(words) else None
        neighbours = [word.confidence for word in (*found[-1:], following) if word is not None]
        now, right = found[-1].end if found else 0.0, following.start if following is not None else duration
        is_said = [bool(word.symbols) for word in spelled[first:last]]
        step = max(right - now, 0.0) / max(sum(is_said), 1)
        for number in range(first, last):
            if begins[number] and following is not None and not any(is_said[number - first :]):
                now = right
            end = now + step * is_said[number - first]
            found.append(Word(spelled[number].text, now, end, fmean(neighbours or [0.0]), interpolated=True))
            now = end
    rest = iter(found)
    return [[next(rest) for _ in line] for line in placed]


def _padded(lines: list[list[Word]], duration: float) -> list[list[Word]]:
    """Let each word reach to the middle of the pauses around it; the first and the last one take all, as at peers."""
    words = [word for line in lines for word in line]
    edges = [0.0, *((a.end + b.start) / 2 for a, b in pairwise(words)), duration]
    padded = iter(replace(word, start=a, end=b) for word, (a, b) in zip(words, pairwise(edges), strict=True))
    return [[next(padded) for _ in line] for line in lines]
