"""Word and character error rates, with substitutions, insertions and deletions."""

from __future__ import annotations

from collections.abc import Sequence

from w2v.functional.edit_distance import EditCounts, edit_counts
from w2v.scoring.base import Scorer, ScorerConfig, register_scorer


class ErrorRateScorer(Scorer):
    """Base of the error rates: `split` says what is counted."""

    unit: str

    def __init__(self, config: ScorerConfig | None = None) -> None:
        super().__init__(config)
        self.counts = EditCounts()
        self.num_sentences = 0

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """Cut a text into what is counted."""
        raise NotImplementedError

    def add(self, reference: str, hypothesis: str) -> None:
        self.counts += edit_counts(self.split(reference), self.split(hypothesis))
        self.num_sentences += 1

    def score(self) -> float:
        """Return errors per hundred reference units."""
        return self.counts.rate

    def summary(self) -> str:
        counts = self.counts
        return (
            f"{self.name}: {self.score():.2f} % ({counts.substitutions} sub, {counts.insertions} ins, "
            f"{counts.deletions} del in {counts.reference_length} {self.unit} of {self.num_sentences} sentences)"
        )


@register_scorer("wer", ScorerConfig)
class WerScorer(ErrorRateScorer):
    """Word error rate: words are what white space separates."""

    name = "WER"
    unit = "words"

    @staticmethod
    def split(text: str) -> Sequence[str]:
        return text.split()


@register_scorer("cer", ScorerConfig)
class CerScorer(ErrorRateScorer):
    """Character error rate: runs of white space count as one character, ends are stripped."""

    name = "CER"
    unit = "characters"

    @staticmethod
    def split(text: str) -> Sequence[str]:
        return " ".join(text.split())
