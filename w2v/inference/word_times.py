"""When each word of a hypothesis was said, in frames, and how sure the model is of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.data.post_process import word_of_each
from w2v.errors import ConfigError
from w2v.functional.ctc_path import best_paths, token_confidences, token_ends
from w2v.types import Hypothesis


@dataclass(frozen=True)
class SymbolTime:
    """One symbol of a word.

    Attributes:
        symbol: as the dictionary has it.
        start: its first frame.
        end: the frame after its last one.
        confidence: mean probability that it has in its frames.
    """

    symbol: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class WordTime:
    """One word.

    Attributes:
        word: the word.
        start: its first frame.
        end: the frame after its last one.
        confidence: mean over its symbols of the mean probability that each has in its frames.
        symbols: what spells it; empty where that is not known.
    """

    word: str
    start: int
    end: int
    confidence: float
    symbols: tuple[SymbolTime, ...] = ()


def word_times(hypothesis: Hypothesis, log_probs: Tensor, dictionary: Dictionary, symbol: str | None) -> list[WordTime]:
    """Return the times of the words of a hypothesis.

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
    units = [dictionary.string([token]) for token in hypothesis.tokens]
    spelled: dict[int, list[SymbolTime]] = {}
    for number, place in enumerate(word_of_each(units, symbol)):
        if place is not None:
            time = SymbolTime(units[number], hypothesis.timesteps[number], ends[number], sure[number])
            spelled.setdefault(place, []).append(time)
    # A search may end within a word, which is then spelled but not named.
    if len(spelled) < len(hypothesis.words):
        return _shared_evenly(hypothesis, ends, sure)
    return [
        WordTime(word, times[0].start, times[-1].end, float(np.mean([t.confidence for t in times])), tuple(times))
        for word, times in zip(hypothesis.words, spelled.values(), strict=False)
    ]


def word_gaps(log_probs: npt.NDArray[np.float32], dictionary: Dictionary, symbol: str | None) -> list[tuple[int, int]]:
    """Return the pauses between the words of the best path: the frame after a word, the first frame of the next one.

    Args:
        log_probs: (T, V) of one clip.
        dictionary: the symbols.
        symbol: `--post-process`.
    """
    (path,) = best_paths(torch.from_numpy(log_probs)[None], torch.tensor([len(log_probs)]))
    ends = token_ends(log_probs, path.tokens, path.timesteps)
    places = word_of_each([dictionary.string([token]) for token in path.tokens], symbol)
    gaps = []
    last, last_end = None, 0
    for place, start, end in zip(places, path.timesteps, ends, strict=True):
        if place is None:
            continue
        if last is not None and place != last:
            gaps.append((last_end, start))
        last, last_end = place, end
    return gaps


def _shared_evenly(hypothesis: Hypothesis, ends: list[int], sure: list[float]) -> list[WordTime]:
    first, last = (hypothesis.timesteps[0], ends[-1]) if ends else (0, 0)
    edges = np.linspace(first, last, len(hypothesis.words) + 1).round().astype(int).tolist()
    confidence = float(np.mean(sure)) if sure else 0.0
    return [
        WordTime(word, start, end, confidence)
        for word, start, end in zip(hypothesis.words, edges[:-1], edges[1:], strict=True)
    ]
