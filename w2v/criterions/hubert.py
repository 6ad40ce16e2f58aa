"""The loss of HuBERT: cross-entropy over classes, of masked and of other frames (Hsu et al. 2021, equation 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from w2v.config import arg, check_range, float_tuple, str_tuple
from w2v.criterions.base import Criterion, register_criterion
from w2v.criterions.infonce import num_correct, positive_loss
from w2v.criterions.penalties import weighted_penalties
from w2v.errors import ConfigError
from w2v.types import AudioBatch, ClassLogits, Loss, MaskedPredictionOutput, Value


@dataclass(frozen=True)
class HubertCriterionConfig:
    """Options of the loss; names and defaults are the original's."""

    pred_masked_weight: float = arg(1.0, help="weight of masked frames")
    pred_nomask_weight: float = arg(0.0, help="weight of the other frames")
    loss_weights: tuple[float, ...] | None = arg(
        None, help="weight of the model's penalty on large features; none: no penalty", parse=float_tuple
    )
    log_keys: tuple[str, ...] = arg(
        (), help="accepted for recipes of the original: all values are logged", parse=str_tuple
    )

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "pred_masked_weight", "pred_nomask_weight")
        if self.pred_masked_weight == self.pred_nomask_weight == 0:
            raise ConfigError("--pred-masked-weight and --pred-nomask-weight must not both be 0")


@register_criterion("hubert", HubertCriterionConfig)
class HubertCriterion(Criterion):
    """Cross-entropy of each label set, summed, plus the weighted penalty.

    `Loss.sums` holds `ntokens`, `nsentences`, `num_batches`; per label set i and kind m (masked) or u `loss_m_i`,
    `correct_m_i`, `count_m_i`; `loss_features_pen`; and of masked frames `used_classes_i`, `label_entropy_i` and
    `pred_entropy_i` (bits), each a sum over batches, by which a collapse is noticed.
    """

    config: HubertCriterionConfig

    def forward(self, output: MaskedPredictionOutput, batch: AudioBatch) -> Loss:
        """Return the summed loss; `sample_size` is the number of frames, each counted once for all label sets.

        Raises:
            ConfigError: `--loss-weights` does not fit, or frames have a weight that the model leaves out.
        """
        self.expect(output, MaskedPredictionOutput, "--criterion hubert needs hubert")
        parts: list[Tensor] = []
        sums: dict[str, Value] = {}
        sample_size = 0
        kinds = (
            ("m", output.masked, self.config.pred_masked_weight, "--skip-masked", "--pred-masked-weight"),
            ("u", output.unmasked, self.config.pred_nomask_weight, "--skip-nomask", "--pred-nomask-weight"),
        )
        for kind, sets, weight, flag, name in kinds:
            if weight > 0 and not sets:
                raise ConfigError(f"{flag} leaves out frames that {name} {weight:g} is for; set one of them to 0")
            for number, scores in enumerate(sets):
                loss = positive_loss(scores.logits)
                parts += [weight * loss] if weight > 0 else []
                sums[f"loss_{kind}_{number}"] = loss.detach()
                sums[f"correct_{kind}_{number}"] = num_correct(scores.logits)
                sums[f"count_{kind}_{number}"] = len(scores.labels)
            sample_size += len(sets[0].labels) if weight > 0 else 0
        penalties = weighted_penalties(self.config.loss_weights, output.penalties, sample_size)
        if penalties:
            sums["loss_features_pen"] = penalties[0].detach()
        for number, scores in enumerate(output.masked):
            sums |= {f"{name}_{number}": value for name, value in _use_of_classes(scores).items()}
        sums = {"ntokens": sample_size, "nsentences": batch.num_items, "num_batches": 1, **sums}
        return Loss(torch.stack([*parts, *penalties]).sum(), sample_size, sums)

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """Return loss and its parts (bits per frame), counts, shares of correct frames, use of classes."""
        per_bit = max(sums["sample_size"], 1) * math.log(2)
        num_batches = max(sums.get("num_batches", 1), 1)
        values = {"loss": sums["loss"] / per_bit, "ntokens": sums["ntokens"], "nsentences": sums["nsentences"]}
        for key, total in sums.items():
            if key.startswith("loss_"):
                values[key] = total / per_bit
            elif key.startswith("correct_"):
                values[key] = total / max(sums["count" + key.removeprefix("correct")], 1)
            elif key.startswith(("used_", "label_", "pred_")):
                values[key] = total / num_batches
        return values


@torch.no_grad()
def _use_of_classes(scores: ClassLogits) -> dict[str, Tensor]:
    """Return how many classes the labels of a batch name, and the entropies of labels and predictions, in bits."""
    others = scores.logits[:, 1:]  # (N, C), -inf at the own class
    guesses = torch.where(scores.logits[:, 0] >= others.amax(dim=1), scores.labels, others.argmax(dim=1))
    ones = torch.ones(len(scores.labels), device=others.device)
    # scatter_add, because torch.bincount waits for a GPU. (C,)
    counts = [ones.new_zeros(others.shape[1]).scatter_add(0, ids, ones) for ids in (scores.labels, guesses)]
    shares = [count / count.sum().clamp(min=1) for count in counts]
    entropies = [-torch.special.xlogy(share, share).sum() / math.log(2) for share in shares]
    return {"used_classes": (counts[0] > 0).sum(), "label_entropy": entropies[0], "pred_entropy": entropies[1]}
