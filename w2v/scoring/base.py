"""What every score of transcripts offers, and the registry behind `--scoring`."""

from __future__ import annotations

from dataclasses import dataclass

from w2v.registry import Registry


@dataclass(frozen=True)
class ScorerConfig:
    """No options; a scorer of your own may register a dataclass with some."""


class Scorer:
    """Collects pairs of texts and sums them up. Subclasses add `name` and `score`.

    Attributes:
        name: what the score is called.
        larger_is_better: false for error rates.
        references: the texts that were said.
        hypotheses: the texts that were read, in the same order.
    """

    name: str
    larger_is_better = False

    def __init__(self, config: ScorerConfig | None = None) -> None:
        self.config = config or ScorerConfig()
        self.references: list[str] = []
        self.hypotheses: list[str] = []

    def add(self, reference: str, hypothesis: str) -> None:
        """Take one sentence and its reading."""
        self.references.append(reference)
        self.hypotheses.append(hypothesis)

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


def score_by_group(name: str, groups: list[str], references: list[str], hypotheses: list[str]) -> dict[str, Scorer]:
    """Return a scorer for each group of sentences, such as those of a speaker, in order of the groups' names.

    Args:
        name: the scorer.
        groups: group of each sentence.
        references: what was said.
        hypotheses: what was read.
    """
    scorers = {group: build_scorer(name) for group in sorted(set(groups))}
    for group, reference, hypothesis in zip(groups, references, hypotheses, strict=True):
        scorers[group].add(reference, hypothesis)
    return scorers
