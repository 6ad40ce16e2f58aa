"""BLEU over a whole test set, computed by sacrebleu."""

from __future__ import annotations

from w2v.errors import MissingPackageError
from w2v.scoring.base import Scorer, ScorerConfig, register_scorer


@register_scorer("bleu", ScorerConfig)
class BleuScorer(Scorer):
    """sacrebleu's corpus BLEU with its own tokenizer."""

    name = "BLEU"

    def __init__(self, config: ScorerConfig | None = None) -> None:
        super().__init__(config)
        self.references: list[str] = []
        self.hypotheses: list[str] = []

    def add(self, reference: str, hypothesis: str) -> None:
        self.references.append(reference)
        self.hypotheses.append(hypothesis)

    def score(self) -> float:
        """Return BLEU in [0, 100].

        Raises:
            MissingPackageError: sacrebleu is not installed.
        """
        try:
            import sacrebleu
        except ImportError as e:
            raise MissingPackageError("sacrebleu", "test", "--scoring bleu") from e
        if not self.references:
            return 0.0
        return float(sacrebleu.corpus_bleu(self.hypotheses, [self.references]).score)
