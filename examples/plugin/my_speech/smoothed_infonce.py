"""A criterion from outside: InfoNCE that also asks for some probability for the negatives (label smoothing).

`--smoothing 0` is the criterion `wav2vec --infonce`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from w2v.config import arg, check_range
from w2v.criterions import Criterion, register_criterion
from w2v.types import AudioBatch, ContrastiveOutput, Loss


@dataclass(frozen=True)
class SmoothedConfig:
    """Every field is a flag of `w2v-train --criterion wav2vec_smoothed`."""

    smoothing: float = arg(0.1, help="share of the target probability that is spread over all candidates")

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "smoothing")


@register_criterion("wav2vec_smoothed", SmoothedConfig)
class SmoothedInfoNce(Criterion):
    """(1 - s) times the InfoNCE loss, plus s times its mean over all candidates in the place of the positive."""

    config: SmoothedConfig

    def forward(self, output: ContrastiveOutput, batch: AudioBatch) -> Loss:
        log_probs = F.log_softmax(output.logits.float(), dim=-1)  # (N, 1 + K)
        sharp = -log_probs[:, 0].sum()
        value = (1 - self.config.smoothing) * sharp + self.config.smoothing * _spread(log_probs)
        count = log_probs.shape[0]
        sums = {"ntokens": count, "nsentences": batch.num_items, "nce": sharp.detach()}
        return Loss(value, count, sums)

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """Add `nce`, the loss without smoothing in nats, to what every criterion logs."""
        per_term = max(sums["sample_size"], 1)
        shared = {"ntokens": sums["ntokens"], "nsentences": sums["nsentences"]}
        return {**Criterion.summarize(sums), **shared, "nce": sums["nce"] / per_term}


def _spread(log_probs: Tensor) -> Tensor:
    """Sum over rows the mean of -log p; a negative that equals its positive (-inf) is no candidate."""
    usable = log_probs.isfinite()
    total = -log_probs.masked_fill(~usable, 0.0).sum(dim=-1)
    return (total / usable.sum(dim=-1)).sum()
