"""Word vectors that are narrower for rarer words (Baevski and Auli 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

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


class AdaptiveInput(nn.Module):
    """Embeddings by bands of frequency, each projected to one width.

    Args:
        num_words: V; words are numbered from frequent to rare.
        pad: the word that stands for padding: zeros, not trained. Differs from the original, which also freezes
            the word of this number in each further band.
        input_dim: width of the first band's vectors.
        output_dim: C.
        cutoff: words at which bands end.
        factor: each band's vectors are so many times narrower than those of the band before.
    """

    def __init__(
        self, num_words: int, pad: int, input_dim: int, output_dim: int, cutoff: Sequence[int], factor: float
    ) -> None:
        super().__init__()
        self.bands = word_bands(cutoff, num_words, "--adaptive-input-cutoff")
        self.embeddings = nn.ModuleList()
        for band, (first, end) in enumerate(self.bands):
            width = band_width(input_dim, factor, band)
            words = nn.Embedding(end - first, width, padding_idx=pad if first <= pad < end else None)
            nn.init.normal_(words.weight, mean=0.0, std=width**-0.5)
            if words.padding_idx is not None:
                nn.init.zeros_(words.weight[words.padding_idx])
            projection = nn.Linear(width, output_dim, bias=False)
            nn.init.xavier_uniform_(projection.weight)
            self.embeddings.append(nn.Sequential(words, projection))

    def forward(self, words: Tensor) -> Tensor:
        """Return (..., C) for (...) words."""
        # With 20,000 words in the first band, and each band 4 times narrower, rare words take few parameters.
        parts = []
        for (first, end), embed in zip(self.bands, self.embeddings, strict=True):
            # Every band runs over all words, narrow as it is: picking its own would wait for the device.
            inside = (words >= first) & (words < end)
            vectors = embed((words - first).clamp(0, end - first - 1))
            parts.append(vectors.masked_fill(~inside.unsqueeze(-1), 0.0))
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]

    def word_vectors(self, band: int) -> Tensor:
        """Return (words, width) of a band."""
        weight: Tensor = self.embeddings.get_submodule(f"{band}.0").get_parameter("weight")
        return weight

    def projection(self, band: int) -> Tensor:
        """Return (C, width) of a band."""
        weight: Tensor = self.embeddings.get_submodule(f"{band}.1").get_parameter("weight")
        return weight
