"""Contrastive loss of wav2vec, vq-wav2vec and wav2vec 2.0: InfoNCE, or binary, plus weighted penalties.

The positive is in column 0 of the logits, whatever the model (wav2vec 2.0, section 3.2; wav2vec, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.config import arg, float_tuple, str_tuple
from w2v.criterions.base import Criterion, register_criterion
from w2v.criterions.infonce import num_correct, positive_loss
from w2v.criterions.penalties import weighted_penalties
from w2v.types import AudioBatch, ContrastiveOutput, Loss, Value

WATCHED = "code_perplexity"
MOST_PENALTIES = 8


@dataclass(frozen=True)
class Wav2VecCriterionConfig:
    """Options of the contrastive loss."""

    infonce: bool = arg(False, help="cross-entropy of the positive among its negatives; otherwise binary")
    loss_weights: tuple[float, ...] | None = arg(
        None, help="weights of the model's penalties; one number is used for all; none: no penalties", parse=float_tuple
    )
    log_keys: tuple[str, ...] = arg((), help="values of the model to log, such as prob_perplexity", parse=str_tuple)


@register_criterion("wav2vec", Wav2VecCriterionConfig)
class Wav2VecCriterion(Criterion):
    """Contrastive loss.

    `Loss.sums` holds `ntokens`, `nsentences`, `num_batches`, per penalty `loss_0` (the contrastive part), `loss_1`,
    ..., per logged key its sum over batches, and, with `--infonce`, `correct` and `count`.
    """

    config: Wav2VecCriterionConfig

    def forward(self, output: ContrastiveOutput, batch: AudioBatch) -> Loss:
        """Return the summed loss; `sample_size` is the number of predictions.

        Raises:
            ConfigError: `--loss-weights` does not fit the model's penalties.
        """
        self.expect(output, ContrastiveOutput, "--criterion wav2vec needs wav2vec or wav2vec2")
        # (N, 1 + K), in float32: a sum over thousands of rows follows
        logits = output.logits.float()
        sample_size = logits.shape[0]
        contrastive = positive_loss(logits) if self.config.infonce else _binary(logits, output.negative_weight)
        # All sums over predictions, so that micro-batches and ranks add up.
        parts = [contrastive, *weighted_penalties(self.config.loss_weights, output.penalties, sample_size)]
        loss = torch.stack(parts).sum() if len(parts) > 1 else contrastive
        sums: dict[str, Value] = {
            "ntokens": sample_size,
            "nsentences": batch.num_items,
            "num_batches": 1,
        }
        # Differs from the original: the perplexity by which a collapse is noticed is always there.
        for key in dict.fromkeys([*self.config.log_keys, WATCHED]):
            if key in output.stats:
                value = output.stats[key]
                sums[key] = value.detach() if isinstance(value, Tensor) else value
        if len(parts) > 1:
            sums.update({f"loss_{i}": part.detach() for i, part in enumerate(parts)})
        if self.config.infonce:
            sums["correct"] = num_correct(logits)
            sums["count"] = sample_size
        return Loss(loss, sample_size, sums)

    def value_names(self) -> frozenset[str]:
        losses = [f"loss_{number}" for number in range(MOST_PENALTIES)] if self.config.loss_weights else []
        accuracy = ["accuracy"] if self.config.infonce else []
        return frozenset({"loss", "ntokens", "nsentences", WATCHED, *self.config.log_keys, *losses, *accuracy})

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """Return loss (bits), ntokens, nsentences, logged values, parts of the loss (bits) and accuracy."""
        per_bit = max(sums["sample_size"], 1) * math.log(2)
        num_batches = max(sums.get("num_batches", 1), 1)
        values = {"loss": sums["loss"] / per_bit, "ntokens": sums["ntokens"], "nsentences": sums["nsentences"]}
        for key, total in sums.items():
            if key not in ("loss", "sample_size", "ntokens", "nsentences", "num_batches", "correct", "count"):
                # Differs from the original of October 2020, which divides loss_i by the number of micro-batches and
                # ranks as well, and so shows it too small under --update-freq.
                values[key] = total / per_bit if key.startswith("loss_") else total / num_batches
        if sums.get("count", 0) > 0:
            values["accuracy"] = sums["correct"] / sums["count"]
        return values


def _binary(logits: Tensor, negative_weight: float) -> Tensor:
    """Return the summed binary cross-entropy; softplus, because a negative may hold -inf, where x * 0 is nan."""
    return F.softplus(-logits[:, 0]).sum() + negative_weight * F.softplus(logits[:, 1:]).sum()
