"""A softmax in two steps, whose cost for rare words is small (Grave et al. 2017).

The head chooses among frequent words and one entry per band of rarer ones; the band then chooses its word, in a
narrower space. With adaptive inputs the vectors of both can be the same (Baevski and Auli 2019, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.errors import ConfigError
from w2v.functional.dropout import dropout
from w2v.modules.adaptive_input import AdaptiveInput, band_width, word_bands
from w2v.modules.autograd import with_zero_grads


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of words after contexts; the same methods as `WordSoftmax`.

    Args:
        num_words: V; words are numbered from frequent to rare.
        dim: width C of contexts.
        cutoff: words at which the head and the bands after it end.
        factor: each band's space is so many times narrower than the one before.
        dropout: on contexts, and in the spaces of the bands.
        tied: adaptive inputs whose word vectors are used, instead of its own.
        tie_projections: use their projections, too, turned round.
    """

    def __init__(
        self, num_words: int, dim: int, cutoff: Sequence[int], *, factor: float, dropout: float,
        tied: AdaptiveInput | None = None, tie_projections: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        bands = word_bands(cutoff, num_words, "--adaptive-softmax-cutoff")
        if tied is not None and tied.bands != bands:
            raise ConfigError("--tie-adaptive-weights needs --adaptive-input-cutoff as --adaptive-softmax-cutoff")
        self.num_head_words = bands[0][1]
        self.bands = bands[1:]
        self.dropout = dropout
        # In a tuple, so that the inputs do not become a part of this module.
        self._tied = (tied,)
        self.head: nn.Module
        if tied is None:
            self.head = nn.Linear(dim, self.num_head_words + len(self.bands), bias=False)
        else:
            self.head = _TiedHead(tied, dim, len(self.bands))
        self.tail = nn.ModuleList()
        for number, (first, end) in enumerate(self.bands, start=1):
            width = band_width(dim, factor, number)
            # The original's names: its middle one, "1", is a dropout.
            parts = nn.ModuleDict()
            if not (tied is not None and tie_projections):
                parts["0"] = nn.Linear(dim, width, bias=False)
            if tied is None:
                parts["2"] = nn.Linear(width, end - first, bias=False)
            self.tail.append(parts)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    # ------------------------------------------------------------------------------------------ training

    def log_likelihood(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of one word per context; calls the module, so that hooks see it."""
        result: Tensor = self(contexts, targets)
        return result

    def forward(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of one word per context; as `WordSoftmax.forward`."""
        device = contexts.device
        contexts = dropout(contexts, self.dropout, self.training)
        # Which contexts each band is needed for is planned on the CPU, where the targets are.
        rows = [((targets >= first) & (targets < end)).nonzero()[:, 0] for first, end in self.bands]
        # A rare word counts in the head as the entry of its band, V0 + band.
        entries = targets.clone()
        for number, chosen in enumerate(rows):
            entries[chosen] = self.num_head_words + number
        # (N, V0 + bands), in float32: log-sums of 20,000 numbers
        head = self.head(contexts).float()
        result = -F.cross_entropy(head, entries.to(device, non_blocking=True), reduction="none")
        for number, (chosen, (first, _)) in enumerate(zip(rows, self.bands, strict=True)):
            if len(chosen):
                words = (targets[chosen] - first).to(device, non_blocking=True)
                there = chosen.to(device, non_blocking=True)
                logits = self._tail_logits(contexts[there], number)
                result = result.index_add(0, there, -F.cross_entropy(logits.float(), words, reduction="none"))
            else:
                result = with_zero_grads(result, self.tail[number].parameters())
        return result

    # ------------------------------------------------------------------------------------------ scoring

    def log_probs(self, contexts: Tensor) -> Tensor:
        """Return (N, V) float32 natural log-probabilities of all words."""
        head = F.log_softmax(self.head(contexts), dim=-1, dtype=torch.float32)
        parts = [head[:, : self.num_head_words]]
        for number in range(len(self.bands)):
            # log P(word) = log P(band) + log P(word | band)
            inside = F.log_softmax(self._tail_logits(contexts, number), dim=-1, dtype=torch.float32)
            parts.append(inside + head[:, self.num_head_words + number, None])
        return torch.cat(parts, dim=-1)

    def normalizers(self, contexts: Tensor) -> Tensor:
        """Return (N, 1 + bands): of the head, then, per band, what is taken off the score of a word inside it."""
        head = self.head(contexts).float()
        total = head.logsumexp(dim=-1)
        parts = [total]
        for number in range(len(self.bands)):
            inside = self._tail_logits(contexts, number).float().logsumexp(dim=-1)
            parts.append(inside + total - head[:, self.num_head_words + number])
        return torch.stack(parts, dim=-1)

    def pick(self, contexts: Tensor, normalizers: Tensor, words: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of one word per context; as `WordSoftmax.pick`."""
        result = torch.empty(len(words), device=contexts.device)
        frequent = words < self.num_head_words
        result[frequent] = (self._head_contexts(contexts[frequent]) * self._head_vectors(words[frequent])).sum(-1)
        result[frequent] -= normalizers[frequent, 0]
        for number, (first, end) in enumerate(self.bands):
            there = (words >= first) & (words < end)
            narrow = F.linear(contexts[there], self._down(number))
            result[there] = (narrow * self._band_vectors(number)[words[there] - first]).sum(-1).float()
            result[there] -= normalizers[there, 1 + number]
        return result

    # ------------------------------------------------------------------------------------------ parts

    def _tail_logits(self, contexts: Tensor, number: int) -> Tensor:
        """Return (N, words) scores of a band, through its own layers, or through what is tied to the inputs."""
        parts = self.tail[number]._modules
        down, band = parts.get("0"), parts.get("2")
        # (N, C) -> (N, width) -> (N, words)
        narrow = F.linear(contexts, self._down(number)) if down is None else down(contexts)
        narrow = dropout(narrow, self.dropout, self.training)
        logits: Tensor = F.linear(narrow, self._band_vectors(number)) if band is None else band(narrow)
        return logits

    def _down(self, number: int) -> Tensor:
        """Return (width, C) of a band."""
        parts, tied = self.tail[number], self._tied[0]
        if "0" in parts._modules or tied is None:
            return parts.get_parameter("0.weight")
        return tied.projection(number + 1).t()

    def _band_vectors(self, number: int) -> Tensor:
        """Return (words, width) of a band."""
        tied = self._tied[0]
        return self.tail[number].get_parameter("2.weight") if tied is None else tied.word_vectors(number + 1)

    def _head_contexts(self, contexts: Tensor) -> Tensor:
        return self.head.narrow(contexts) if isinstance(self.head, _TiedHead) else contexts

    def _head_vectors(self, words: Tensor) -> Tensor:
        tied = self._tied[0]
        return (self.head.get_parameter("weight") if tied is None else tied.word_vectors(0))[words]


class _TiedHead(nn.Module):
    """The head over the word vectors of the inputs' first band, and over bands."""

    def __init__(self, tied: AdaptiveInput, dim: int, num_bands: int) -> None:
        super().__init__()
        self._tied = (tied,)
        # Where widths differ, the original has a projection before the shared vectors: "word_proj.0".
        self.word_proj = nn.ModuleList()
        width = tied.word_vectors(0).shape[1]
        if width != dim:
            self.word_proj.append(nn.Linear(dim, width, bias=False))
        self.class_proj = nn.Linear(dim, num_bands, bias=False)

    def narrow(self, contexts: Tensor) -> Tensor:
        for projection in self.word_proj:
            contexts = projection(contexts)
        return contexts

    def forward(self, contexts: Tensor) -> Tensor:
        words = F.linear(self.narrow(contexts), self._tied[0].word_vectors(0))
        return torch.cat([words, self.class_proj(contexts)], dim=-1)
