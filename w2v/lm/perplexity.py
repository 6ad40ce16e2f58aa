"""How well a language model foretells a text, defined as KenLM's `query` does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from w2v.lm.language_model import LanguageModel

SENTENCES_AT_ONCE = 256


@dataclass(frozen=True)
class Perplexity:
    """Sums over a text.

    Attributes:
        tokens: words and ends of sentences.
        unknown: words that the model does not know.
        log_prob: natural logarithm of the probability of all tokens.
        unknown_log_prob: the part of unknown words in it.
    """

    tokens: int = 0
    unknown: int = 0
    log_prob: float = 0.0
    unknown_log_prob: float = 0.0

    def __add__(self, other: Perplexity) -> Perplexity:
        return Perplexity(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def with_unknown(self) -> float:
        """Inverse of the geometric mean of the probabilities of all tokens."""
        return _exp(-self.log_prob / max(self.tokens, 1))

    @property
    def without_unknown(self) -> float:
        """The same of all tokens but unknown words, which still stand in the histories of others."""
        return _exp(-(self.log_prob - self.unknown_log_prob) / max(self.tokens - self.unknown, 1))


def measure_perplexity(model: LanguageModel, blocks: Iterable[bytes]) -> Perplexity:
    """Score a text, a sentence per line.

    Args:
        model: the language model.
        blocks: the text, from `read_texts`.
    """
    total = Perplexity()
    numbers: dict[bytes, tuple[int, bool]] = {}
    for block in blocks:
        lines = [line.split() for line in block.split(b"\n")[:-1]]
        for words in lines:
            for word in words:
                if word not in numbers:
                    spelled = word.decode()
                    numbers[word] = model.index(spelled), not model.contains(spelled)
        for start in range(0, len(lines), SENTENCES_AT_ONCE):
            sentences = [[numbers[word] for word in words] for words in lines[start : start + SENTENCES_AT_ONCE]]
            total += _measure(model, sentences)
            model.forget()
    return total


def _measure(model: LanguageModel, sentences: Sequence[Sequence[tuple[int, bool]]]) -> Perplexity:
    # The longest first, so that the longer ones are always the first rows.
    sentences = sorted(sentences, key=len, reverse=True)
    lengths = np.array([len(sentence) for sentence in sentences])
    states = np.full(len(sentences), model.start(), dtype=np.int64)
    log_prob = unknown_log_prob = 0.0
    for position in range(lengths[0]):
        column = np.array([sentence[position] for sentence in sentences[: np.count_nonzero(lengths > position)]])
        rows = slice(len(column))
        scores, states[rows] = model.score(states[rows], column[:, 0])
        log_prob += scores.sum()
        unknown_log_prob += scores[column[:, 1] == 1].sum()
    log_prob += model.finish(states).sum()
    unknown = sum(is_unknown for sentence in sentences for _, is_unknown in sentence)
    natural = math.log(model.log_base)
    return Perplexity(int(lengths.sum()) + len(sentences), unknown, log_prob * natural, unknown_log_prob * natural)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
