"""When each word of a reading was said, in frames, and how sure the model is of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.data.post_process import word_of_each
from w2v.errors import ConfigError
from w2v.functional.ctc_path import token_confidences, token_ends
from w2v.types import Hypothesis


@dataclass(frozen=True)
class WordTime:
    """One word.

    Attributes:
        word: the word.
        start: its first frame.
        end: the frame after its last one.
        confidence: mean over its symbols of the mean probability that each has in its frames.
    """

    word: str
    start: int
    end: int
    confidence: float


def word_times(hypothesis: Hypothesis, log_probs: Tensor, dictionary: Dictionary, symbol: str | None) -> list[WordTime]:
    """Return the times of the words of a reading.

    A word begins with its first symbol and ends with its last one; the mark between words belongs to none. Where the
    symbols spell fewer words than the decoder names (a lexicon whose spellings do not end in `|`), the words share
    the time from the first symbol to the last one equally.

    Args:
        hypothesis: what the decoder returned.
        log_probs: (T, V) float32, what it read.
        dictionary: the symbols.
        symbol: `--post-process`.

    Raises:
        ConfigError: the decoder gives no times.
    """
    if len(hypothesis.timesteps) != len(hypothesis.tokens):
        raise ConfigError("--ctm: the decoder does not tell the frames of its symbols")
    if not hypothesis.words:
        return []
    emissions = log_probs.numpy()
    ends = token_ends(emissions, hypothesis.tokens, hypothesis.timesteps)
    sure = token_confidences(emissions, hypothesis.tokens, hypothesis.timesteps, ends)
    places = word_of_each([dictionary.string([token]) for token in hypothesis.tokens], symbol)
    spelled: dict[int, list[int]] = {}
    for number, place in enumerate(places):
        if place is not None:
            spelled.setdefault(place, []).append(number)
    # A search may end within a word, which is then spelled but not named.
    if len(spelled) < len(hypothesis.words):
        return _shared_evenly(hypothesis, ends, sure)
    return [
        WordTime(
            word,
            hypothesis.timesteps[numbers[0]],
            ends[numbers[-1]],
            float(np.mean([sure[number] for number in numbers])),
        )
        for word, numbers in zip(hypothesis.words, spelled.values(), strict=False)
    ]


def _shared_evenly(hypothesis: Hypothesis, ends: list[int], sure: list[float]) -> list[WordTime]:
    first, last = (hypothesis.timesteps[0], ends[-1]) if ends else (0, 0)
    edges = np.linspace(first, last, len(hypothesis.words) + 1).round().astype(int).tolist()
    confidence = float(np.mean(sure)) if sure else 0.0
    return [
        WordTime(word, start, end, confidence)
        for word, start, end in zip(hypothesis.words, edges[:-1], edges[1:], strict=True)
    ]
