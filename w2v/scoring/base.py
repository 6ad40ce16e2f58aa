"""What every score of transcripts offers, and the registry behind `--scoring`."""

from __future__ import annotations

import dataclasses
import unicodedata
from dataclasses import dataclass

from w2v.config import arg
from w2v.registry import Registry


@dataclass(frozen=True)
class ScorerConfig:
    """Options of the built-in scores; a scorer of your own may register a dataclass derived from this one."""

    sacrebleu_tokenizer: str | None = arg(
        None,
        help="bleu: how texts are cut into words: 13a, none, zh, ja-mecab, char, intl, ... (default: sacrebleu's)",
        none_is_text=True,
    )
    wer_lowercase: bool = arg(False, help="wer, cer: in lower case")
    wer_remove_punct: bool = arg(
        False, help="wer, cer: without punctuation, but for what joins letters (don't) or digits (3.5)"
    )


class Scorer:
    """Collects pairs of texts and sums them up. Subclasses add `name` and `score`.

    Attributes:
        name: what the score is called.
        larger_is_better: false for error rates.
        references: what was said.
        hypotheses: what a model wrote, in the same order.
    """

    name: str
    larger_is_better = False

    def __init__(self, config: ScorerConfig | None = None) -> None:
        self.config = config or ScorerConfig()
        self.references: list[str] = []
        self.hypotheses: list[str] = []

    def add(self, reference: str, hypothesis: str) -> None:
        """Take the reference of one sentence, and its hypothesis."""
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


def build_scorer(name: str, options: ScorerConfig | None = None) -> Scorer:
    """Return the scorer registered as `name`.

    Args:
        name: the scorer.
        options: its options, among others that it does not have.

    Raises:
        RegistryError: no such scorer.
        ConfigError: an option has a value that is not known.
    """
    entry = SCORERS.get(name)
    given = dataclasses.asdict(options) if options else {}
    own = {item.name for item in dataclasses.fields(entry.config)}
    return entry.cls(entry.config(**{name: value for name, value in given.items() if name in own}))


def without_punctuation(text: str) -> str:
    """Return a text without punctuation. Marks between letters (don't, well-known) or digits (3.5) stay."""
    kept = []
    for place, character in enumerate(text):
        if unicodedata.category(character)[0] == "P":
            before, after = text[place - 1 : place], text[place + 1 : place + 2]
            joins_words = character in "'\u2019-" and before.isalpha() and after.isalpha()
            joins_digits = character in ".,:" and before.isdigit() and after.isdigit()
            character = character if joins_words or joins_digits else " "
        kept.append(character)
    return " ".join("".join(kept).split())


def score_by_group(
    name: str,
    groups: list[str],
    references: list[str],
    hypotheses: list[str],
    options: ScorerConfig | None = None,
) -> dict[str, Scorer]:
    """Return a scorer for each group of sentences, such as those of a speaker, in order of the groups' names.

    Args:
        name: the scorer.
        groups: group of each sentence.
        references: what was said.
        hypotheses: what was written.
        options: the scorer's.
    """
    scorers = {group: build_scorer(name, options) for group in sorted(set(groups))}
    for group, reference, hypothesis in zip(groups, references, hypotheses, strict=True):
        scorers[group].add(reference, hypothesis)
    return scorers
