"""Cross-entropy of the words that came: the loss of language models, and their perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from w2v.config import arg
from w2v.criterions.base import Criterion, register_criterion
from w2v.types import LanguageModelOutput, Loss, TextBatch


@dataclass(frozen=True)
class CrossEntropyConfig:
    """Options of the cross-entropy."""

    sentence_avg: bool = arg(False, help="divide gradients by the number of samples instead of words")


# Differs from the original, where a model with an adaptive softmax trains with `adaptive_loss` alone, and others do
# not train with it. Here the model knows its softmax, and both names mean the same sum.
@register_criterion("adaptive_loss", CrossEntropyConfig)
@register_criterion("cross_entropy", CrossEntropyConfig)
class CrossEntropyCriterion(Criterion):
    """Negative log-likelihood; `Loss.sums` holds `ntokens` (words) and `nsentences` (samples)."""

    config: CrossEntropyConfig

    def forward(self, output: LanguageModelOutput, batch: TextBatch) -> Loss:
        """Return the summed loss; `sample_size` is the number of words, or of samples."""
        self.expect(output, LanguageModelOutput, "--criterion cross_entropy needs transformer_lm")
        # (N,): padding is left out before, by the model
        num_tokens = len(output.log_probs)
        sample_size = batch.num_items if self.config.sentence_avg else num_tokens
        return Loss(-output.log_probs.sum(), sample_size, {"ntokens": num_tokens, "nsentences": batch.num_items})

    def value_names(self) -> frozenset[str]:
        return frozenset({"loss", "nll_loss", "ppl", "ntokens", "nsentences"})

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """Return loss per `sample_size`, nll_loss per word, both in bits, and ppl, their perplexity per word."""
        loss = sums["loss"] / math.log(2)
        per_word = loss / max(sums["ntokens"], 1)
        return {
            "loss": loss / max(sums["sample_size"], 1),
            "nll_loss": per_word,
            # A perplexity beyond 2 ** 1000 is a fault, and must not end the run.
            "ppl": 2 ** min(per_word, 1000.0),
            "ntokens": sums["ntokens"],
            "nsentences": sums["nsentences"],
        }
