"""Word and character error rates, with substitutions, insertions and deletions."""

from __future__ import annotations

from collections.abc import Sequence

from w2v.data.post_process import NOT_SAID
from w2v.functional.edit_distance import EditCounts, edit_counts, edit_distance
from w2v.scoring.base import Scorer, ScorerConfig, register_scorer, without_punctuation


class ErrorRateScorer(Scorer):
    """Base of the error rates: `split` says what is counted.

    Attributes:
        errors: edit distance of each sentence.
        lengths: reference units of each sentence.
    """

    unit: str

    def __init__(self, config: ScorerConfig | None = None) -> None:
        super().__init__(config)
        self.errors: list[int] = []
        self.lengths: list[int] = []

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """Cut a text into what is counted."""
        raise NotImplementedError

    def add(self, reference: str, hypothesis: str) -> None:
        super().add(reference, hypothesis)
        units, written = self._units(reference, hypothesis)
        self.errors.append(edit_distance(units, written))
        self.lengths.append(len(units))

    def _units(self, reference: str, hypothesis: str) -> tuple[Sequence[str], Sequence[str]]:
        # One character that no text holds: an unknown symbol counts as one character, and is never right.
        hypothesis = hypothesis.replace(NOT_SAID, "\uffff")
        return self.split(self._cleaned(reference)), self.split(self._cleaned(hypothesis))

    def _cleaned(self, text: str) -> str:
        text = text.lower() if self.config.wer_lowercase else text
        return without_punctuation(text) if self.config.wer_remove_punct else text

    def score(self) -> float:
        """Return errors per hundred reference units."""
        return EditCounts(sum(self.errors), reference_length=sum(self.lengths)).rate

    def counts(self) -> EditCounts:
        """Return the kinds of the errors; unlike the score, this aligns every sentence that has errors."""
        pairs = zip(self.references, self.hypotheses, strict=True)
        return sum((edit_counts(*self._units(*pair)) for pair in pairs), EditCounts())

    def summary(self) -> str:
        counts = self.counts()
        return (
            f"{self.name}: {self.score():.2f} % ({counts.substitutions} sub, {counts.insertions} ins, "
            f"{counts.deletions} del in {counts.reference_length} {self.unit} of {len(self.errors)} sentences)"
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
