"""What every score of transcripts offers, and the registry behind `--scoring`."""

from __future__ import annotations

from dataclasses import dataclass

from w2v.registry import Registry


@dataclass(frozen=True)
class ScorerConfig:
    """No options; a scorer of your own may register a dataclass with some."""


class Scorer:
    """Collects pairs of texts and sums them up. Subclasses add `name`, `add` and `score`."""

    name: str

    def __init__(self, config: ScorerConfig | None = None) -> None:
        self.config = config or ScorerConfig()

    def add(self, reference: str, hypothesis: str) -> None:
        """Count one sentence and its reading."""
        raise NotImplementedError

    def score(self) -> float:
        """Return the score over all sentences added: from total counts, never an average of averages."""
        raise NotImplementedError

    def summary(self) -> str:
        """Return the score, and what it is made of, as a line for people."""
        return f"{self.name}: {self.score():.2f}"


SCORERS: Registry[Scorer] = Registry("scorer", "--scoring", Scorer)
register_scorer = SCORERS.register


def build_scorer(name: str) -> Scorer:
    """Return the scorer registered as `name`, with its default options.

    Raises:
        RegistryError: no such scorer.
    """
    entry = SCORERS.get(name)
    return entry.cls(entry.config())
