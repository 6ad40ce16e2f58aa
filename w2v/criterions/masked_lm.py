"""Cross-entropy of the tokens that were to be predicted: the loss of masked language models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from w2v.criterions.base import Criterion, register_criterion
from w2v.types import LanguageModelOutput, Loss, TextBatch


@dataclass(frozen=True)
class MaskedLmConfig:
    """The loss has no options."""


@register_criterion("masked_lm", MaskedLmConfig)
class MaskedLmCriterion(Criterion):
    """Negative log-likelihood, summed over predicted tokens; a batch may have none, and has zero gradients then."""

    def forward(self, output: LanguageModelOutput, batch: TextBatch) -> Loss:
        """Return the summed loss; `sample_size` is the number of predicted tokens."""
        self.expect(output, LanguageModelOutput, "--criterion masked_lm needs roberta_base")
        # (N,): other tokens were left out before, by the model
        return Loss(-output.log_probs.sum(), len(output.log_probs), {})

    def value_names(self) -> frozenset[str]:
        return frozenset({"loss", "ppl"})

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """Return loss, in bits per predicted token, and ppl, its perplexity."""
        loss = sums["loss"] / max(sums["sample_size"], 1) / math.log(2)
        # A perplexity beyond 2 ** 1000 is a fault, and must not end the run.
        return {"loss": loss, "ppl": 2 ** min(loss, 1000.0)}
