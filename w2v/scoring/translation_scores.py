"""Scores of translations over a whole test set, computed by sacrebleu: BLEU, chrF and TER."""

from __future__ import annotations

from typing import Any

from w2v.errors import ConfigError, MissingPackageError
from w2v.scoring.base import Scorer, ScorerConfig, register_scorer


class TranslationScorer(Scorer):
    """Base of sacrebleu's scores, with its own tokenizers and defaults; `metric` is its name of the score.

    Raises:
        MissingPackageError: sacrebleu is not installed.
    """

    metric: str

    def __init__(self, config: ScorerConfig | None = None) -> None:
        super().__init__(config)
        try:
            from sacrebleu import metrics
        except ImportError as e:
            raise MissingPackageError("sacrebleu", "test", f"--scoring {self.metric.lower()}") from e
        try:
            self._metric: Any = getattr(metrics, self.metric)(**self._options())
        except (ValueError, TypeError, KeyError, ImportError, RuntimeError, OSError) as e:
            name, reason = self.config.sacrebleu_tokenizer, " ".join(str(e).split())
            raise ConfigError(f"--sacrebleu-tokenizer {name}: sacrebleu does not take it: {reason[:200]}") from e

    def _options(self) -> dict[str, Any]:
        return {}

    def score(self) -> float:
        """Return the score over the whole set, in percent."""
        if not self.references:
            return 0.0
        return float(self._metric.corpus_score(self.hypotheses, [self.references]).score)

    def summary(self) -> str:
        """Return the score and sacrebleu's signature: tokenizer, options and version, for tables in papers."""
        score = super().summary()
        return f"{score} ({self._metric.get_signature()})" if self.references else score


@register_scorer("bleu", ScorerConfig)
class BleuScorer(TranslationScorer):
    """BLEU."""

    name = metric = "BLEU"
    larger_is_better = True

    def _options(self) -> dict[str, Any]:
        tokenizer = self.config.sacrebleu_tokenizer
        if tokenizer is None:
            return {}
        from sacrebleu.metrics.bleu import BLEU

        if tokenizer not in BLEU.TOKENIZERS:
            known = ", ".join(sorted(BLEU.TOKENIZERS))
            raise ConfigError(f"--sacrebleu-tokenizer must be one of {known}, got {tokenizer!r}")
        return {"tokenize": tokenizer}


@register_scorer("chrf", ScorerConfig)
class ChrfScorer(TranslationScorer):
    """chrF2: F-score of character n-grams."""

    name = "chrF2"
    metric = "CHRF"
    larger_is_better = True


@register_scorer("ter", ScorerConfig)
class TerScorer(TranslationScorer):
    """TER: translation edit rate, in which a moved phrase is one edit."""

    name = metric = "TER"
