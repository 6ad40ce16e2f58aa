"""Bands of words from frequent to rare, which adaptive inputs and the adaptive softmax treat differently.

Grave et al. 2017, "Efficient softmax approximation for GPUs"; Baevski and Auli 2019, "Adaptive input representations".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from w2v.errors import ConfigError


def word_bands(cutoff: Sequence[int], num_words: int, flag: str) -> list[tuple[int, int]]:
    """Return the first word of each band and the one after its last.

    Args:
        cutoff: rising numbers of words at which a band ends; the last band ends with the vocabulary.
        num_words: V.
        flag: where `cutoff` comes from, for messages.

    Raises:
        ConfigError: the numbers do not rise, or pass the vocabulary.
    """
    edges = [0, *cutoff] if cutoff and cutoff[-1] == num_words else [0, *cutoff, num_words]
    if any(low >= high for low, high in pairwise(edges)):
        raise ConfigError(f"{flag} must be rising numbers up to the {num_words} words, got {list(cutoff)}")
    return list(pairwise(edges))


def band_width(dim: int, factor: float, band: int) -> int:
    """Return the width of the vectors of a band: each is `factor` times narrower than the one before."""
    return max(int(dim // factor**band), 1)
