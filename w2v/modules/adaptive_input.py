"""Word vectors that are narrower for rarer words (Baevski and Auli 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from w2v.functional.word_bands import band_width, word_bands


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
