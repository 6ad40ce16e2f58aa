"""How far an error rate would move with other sentences: the bootstrap over sentences (Bisani and Ney 2004)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

AT_ONCE = 1 << 22  # numbers drawn at once: 32 MB


def bootstrap_rates(
    errors: Sequence[int], lengths: Sequence[int], num_samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the error rates, in percent, of test sets that are drawn sentence by sentence from this one.

    Args:
        errors: errors of each sentence.
        lengths: reference words of each sentence; not all zero.
        num_samples: how many test sets are drawn, each with as many sentences, with replacement.
        rng: draws them.

    Returns:
        (num_samples,) rates; a set in which no reference has a word counts as one of a single word.
    """
    wrong, words = np.asarray(errors, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    rates = np.empty(num_samples)
    at_once = max(AT_ONCE // max(len(wrong), 1), 1)
    for first in range(0, num_samples, at_once):
        size = min(at_once, num_samples - first)
        drawn = rng.integers(len(wrong), size=(size, len(wrong)))
        rates[first : first + size] = 100.0 * wrong[drawn].sum(1) / np.maximum(words[drawn].sum(1), 1)
    return rates


def interval(rates: npt.NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Return the bounds between which the middle share of `rates` lies."""
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
