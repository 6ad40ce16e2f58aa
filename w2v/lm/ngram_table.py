"""n-grams with probabilities and back-off weights, as arrays: what is estimated, written, read and scored.

The n-grams of one order are rows of a table, sorted by their context (a row of the table of the order below), then by
their last word. So the tables are a tree, an n-gram is found by a binary search for one integer, and no words are
stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from w2v.array_types import FloatArray, IntArray

SENTENCE_START, SENTENCE_END, UNKNOWN = "<s>", "</s>", "<unk>"
UNKNOWN_SPELLINGS = (UNKNOWN, "<UNK>")
# What KenLM gives to unknown words of a model without <unk>.
MISSING_UNKNOWN = -100.0


@dataclass(frozen=True)
class NgramTable:
    """All n-grams of one order.

    Attributes:
        vocabulary_size: number of words.
        contexts: (N,) rows of the first n - 1 words in the table of the order below; zeros for single words.
        words: (N,) last words. Of single words, row i is word i.
        log_probs: (N,) log10 of the probability of the last word after the others.
        backoffs: (N,) log10 of the weight of shorter contexts where no longer n-gram fits; 0 where there is none.
    """

    vocabulary_size: int
    contexts: IntArray
    words: IntArray
    log_probs: FloatArray
    backoffs: FloatArray

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def keys(self) -> IntArray:
        """(N,) contexts and last words in one rising integer."""
        return self.contexts * self.vocabulary_size + self.words

    def find(self, contexts: IntArray, words: IntArray) -> IntArray:
        """Return (M,) rows of n-grams, -1 where there is none; a context of -1 is in no n-gram."""
        if not len(self):
            return np.full(len(words), -1, dtype=np.int64)
        wanted = contexts * self.vocabulary_size + words
        rows = np.searchsorted(self.keys, wanted)
        rows[rows == len(self)] = 0
        return np.where((self.keys[rows] == wanted) & (contexts >= 0), rows, -1)


@dataclass(frozen=True)
class BackoffModel:
    """An n-gram model.

    Attributes:
        vocabulary: words by number.
        tables: n-grams of order 1, 2, ...
    """

    vocabulary: Sequence[str]
    tables: Sequence[NgramTable]

    def spelled(self, order: int) -> npt.NDArray[np.int32]:
        """Return the (N, order) words of the n-grams of an order."""
        rows = np.arange(len(self.tables[order - 1]))
        columns = np.empty((len(rows), order), dtype=np.int32)
        for column in reversed(range(order)):
            columns[:, column] = self.tables[column].words[rows]
            rows = self.tables[column].contexts[rows]
        return columns


def with_unknown(model: BackoffModel) -> BackoffModel:
    """Return a model with `<unk>` as its last word, as unlikely as KenLM makes it where a file lacks it."""
    size = len(model.vocabulary)
    first = model.tables[0]
    grown = NgramTable(
        vocabulary_size=size + 1,
        contexts=np.append(first.contexts, 0),
        words=np.append(first.words, size),
        log_probs=np.append(first.log_probs, MISSING_UNKNOWN),
        backoffs=np.append(first.backoffs, 0.0),
    )
    higher = [replace(table, vocabulary_size=size + 1) for table in model.tables[1:]]
    return BackoffModel([*model.vocabulary, UNKNOWN], [grown, *higher])
