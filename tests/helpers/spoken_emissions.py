"""Emissions of an imagined model that hears what is said, with the frames in which it was said."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from w2v.data.dictionary import SPECIALS
from w2v.inference.emission_file import EmissionInfo

SYMBOLS = [*SPECIALS, "|", *string.ascii_uppercase, "'"]
INFO = EmissionInfo("imagined", SYMBOLS, "letter", "ltr", 16000, 320, 40.0)


def spoken(
    words: Sequence[str], seed: int = 0, *, symbols: Sequence[str] = SYMBOLS, peak: float = 9.0, noise: float = 1.5
) -> tuple[npt.NDArray[np.float32], list[tuple[int, int]]]:
    """Return (T, V) log-probabilities, and the first frame of each word and the one after its last.

    Args:
        words: in symbols of the model.
        seed: of lengths, pauses and noise.
        symbols: blank first.
        peak: logit of what is said, above noise of deviation `noise`.
    """
    random = np.random.default_rng(seed)
    path: list[int] = [0] * int(random.integers(2, 12))
    spans = []
    for word in words:
        begin = end = len(path)
        for number, letter in enumerate(word):
            # A blank parts equal letters, as in all paths of CTC.
            gap = int(random.integers(0, 4)) if number else 0
            gap = max(gap, 1) if number and word[number - 1] == letter else gap
            path += [0] * gap
            begin = begin if number else len(path)
            path += [symbols.index(letter)] * int(random.integers(1, 3))
            end = len(path)
        spans.append((begin, end))
        path += [0] * int(random.integers(0, 3)) + [symbols.index("|")] + [0] * int(random.integers(0, 8))
    logits = random.standard_normal((len(path), len(symbols))) * noise
    logits[:, 1:4] -= 10.0
    logits[np.arange(len(path)), path] += peak
    scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return scores.astype(np.float32), spans
