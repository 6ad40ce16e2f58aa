"""The output layer of a language model: a softmax over all words. For very large vocabularies see `AdaptiveSoftmax`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WordSoftmax(nn.Module):
    """Log-probabilities of words after contexts.

    Args:
        num_words: V.
        dim: width C of contexts.
        tied: embeddings whose (V, C) weight is used, instead of one of its own.
    """

    def __init__(self, num_words: int, dim: int, tied: nn.Embedding | None = None) -> None:
        super().__init__()
        # In a tuple, so that the embeddings do not become a part of this module.
        self._tied = (tied,)
        if tied is None:
            self.weight = nn.Parameter(torch.empty(num_words, dim))
            nn.init.normal_(self.weight, mean=0.0, std=dim**-0.5)

    def word_vectors(self) -> Tensor:
        """Return (V, C)."""
        tied = self._tied[0]
        return self.weight if tied is None else tied.weight

    def log_likelihood(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of one word per context; calls the module, so that hooks see it."""
        result: Tensor = self(contexts, targets)
        return result

    def forward(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of one word per context.

        Args:
            contexts: (N, C).
            targets: (N,) words, on the CPU.
        """
        # (N, C) x (C, V) -> (N, V)
        logits = F.linear(contexts, self.word_vectors())
        targets = targets.to(contexts.device, non_blocking=True)
        return -F.cross_entropy(logits.float(), targets, reduction="none")

    def log_probs(self, contexts: Tensor) -> Tensor:
        """Return (N, V) float32 natural log-probabilities of all words."""
        return F.log_softmax(F.linear(contexts, self.word_vectors()), dim=-1, dtype=torch.float32)

    def normalizers(self, contexts: Tensor) -> Tensor:
        """Return (N, 1): what `pick` needs to know of each context beside the context itself."""
        return F.linear(contexts, self.word_vectors()).float().logsumexp(dim=-1, keepdim=True)

    def pick(self, contexts: Tensor, normalizers: Tensor, words: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of one word per context, at the cost of one product of vectors each.

        Args:
            contexts: (N, C).
            normalizers: (N, 1), from `normalizers`.
            words: (N,), on the device.
        """
        return (contexts * self.word_vectors()[words]).sum(dim=-1).float() - normalizers[:, 0]
