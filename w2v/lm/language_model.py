"""What every language model offers to a search or to rescoring, whatever it is made of.

Histories are small integers, so that a search can hold thousands of them in an array, ask for all next words at once
and see at a glance which histories are the same to the model. An n-gram model and a Transformer differ in what stands
behind such an integer: the last words, or a prefix with its cached keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from w2v.array_types import FloatArray, IntArray


class LanguageModel:
    """Base class of language models.

    Attributes:
        path: the file it was read from, for messages.
        words: its vocabulary without `<s>`, `</s>` and `<unk>`, or None where the file does not list it.
        log_base: base of its log-probabilities.
    """

    path: str
    words: Sequence[str] | None
    log_base: float = math.e

    def contains(self, word: str) -> bool:
        """Tell whether the model knows `word`."""
        raise NotImplementedError

    def index(self, word: str) -> int:
        """Return the number of a word; that of the unknown word where the model does not know it."""
        raise NotImplementedError

    def start(self) -> int:
        """Return the state before the first word."""
        raise NotImplementedError

    def score(self, states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        """Return log-probabilities of words, each after its own history, and the histories that follow.

        Args:
            states: (N,) histories, from `start` or an earlier `score`.
            words: (N,) numbers of words, from `index`.

        Returns:
            (N,) log-probabilities: to base 10 for n-gram models and natural for Transformers, as in the original, so
            that published values of `--lm-weight` keep their meaning; (N,) states, equal for equal histories.
        """
        raise NotImplementedError

    def finish(self, states: IntArray) -> FloatArray:
        """Return (N,) log-probabilities of the end of the sentence."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop all states but that of `start`: what was cached for sentences that are done."""

    def sentence_scores(self, sentences: Sequence[Iterable[str]]) -> FloatArray:
        """Return (N,) log-probabilities of whole sentences, their end included.

        Args:
            sentences: the words of each.
        """
        columns = [[self.index(word) for word in sentence] for sentence in sentences]
        totals = np.zeros(len(columns))
        states = np.full(len(columns), self.start(), dtype=np.int64)
        for position in range(max(map(len, columns), default=0)):
            rows = np.array([i for i, column in enumerate(columns) if len(column) > position], dtype=np.int64)
            words = np.array([columns[i][position] for i in rows], dtype=np.int64)
            scores, states[rows] = self.score(states[rows], words)
            totals[rows] += scores
        return totals + self.finish(states)
