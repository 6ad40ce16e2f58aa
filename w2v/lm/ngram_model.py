"""n-gram models in arrays: many histories and words are scored by a few numpy calls, and no package is needed.

A history is the longest n-gram that its last words are and that can still matter: one that longer n-grams begin
with, or that has a back-off weight. Histories that score all words alike are therefore the same integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2v.array_types import FloatArray, IntArray
from w2v.data.text_blocks import read_blocks
from w2v.errors import ConfigError, DataError
from w2v.lm.arpa import read_arpa
from w2v.lm.kenlm_model import KenlmModel
from w2v.lm.language_model import LanguageModel
from w2v.lm.ngram_table import SENTENCE_END, SENTENCE_START, UNKNOWN_SPELLINGS, BackoffModel, with_unknown
from w2v.lm.vocabulary import BINARY_MAGIC, SPECIAL_WORDS, is_binary

MEMO_SIZE = 1 << 16
_ODD = 0x1E3779B97F4A7C15


class NgramArrays(NamedTuple):
    """An n-gram model for code that asks for one word at a time.

    Attributes:
        keys: (M,) rising: history * num_words + last word, of n-grams of two words and more.
        log_probs: (N + 1,) of the n-grams, the nodes.
        backoffs: (N + 1,) weight of leaving a node for its suffix.
        suffixes: (N + 1,) node without its first word.
        histories: (N + 1,) state after a node.
        num_words: size of the vocabulary.
        empty: the empty history, N.
    """

    keys: IntArray
    log_probs: FloatArray
    backoffs: FloatArray
    suffixes: IntArray
    histories: IntArray
    num_words: int
    empty: int


class NgramModel(LanguageModel):
    """An n-gram model with back-off.

    Nodes are all n-grams, order by order, so that node i below the size of the vocabulary is word i; the empty
    history is one more, the last.

    Args:
        path: the file it is from, for messages.
        model: its n-grams.

    Raises:
        DataError: the model has no `<s>` or no `</s>`.
    """

    log_base = 10.0

    def __init__(self, path: str, model: BackoffModel) -> None:
        self.path = path
        if not any(word in model.vocabulary for word in UNKNOWN_SPELLINGS):
            model = with_unknown(model)
        self.words: Sequence[str] = [word for word in model.vocabulary if word not in SPECIAL_WORDS]
        self._numbers = {word: number for number, word in enumerate(model.vocabulary)}
        for word in (SENTENCE_START, SENTENCE_END):
            if word not in self._numbers:
                raise DataError(f"{path}: the language model has no {word}")
        self._unknown = next(self._numbers[word] for word in UNKNOWN_SPELLINGS if word in self._numbers)
        self._build(model)
        self._start = int(self._histories[self._numbers[SENTENCE_START]])
        self._end = self._numbers[SENTENCE_END]
        # What was asked last: a search asks for the same word after the same history in frame after frame.
        self._asked = np.full(MEMO_SIZE, -1)
        self._scores = np.zeros(MEMO_SIZE)
        self._following = np.zeros(MEMO_SIZE, np.int64)

    def _build(self, model: BackoffModel) -> None:
        tables = model.tables
        self._num_words = num_words = len(model.vocabulary)
        offsets = np.cumsum([0, *map(len, tables)])
        self._empty = int(offsets[-1])
        self._keys = np.concatenate(
            [
                np.empty(0, np.int64),
                *((t.contexts + offsets[k]) * num_words + t.words for k, t in enumerate(tables[1:])),
            ]
        )
        self._log_probs = np.concatenate([*(table.log_probs for table in tables), [0.0]])
        self._backoffs = np.concatenate([*(table.backoffs for table in tables), [0.0]])
        self._backoffs[offsets[-2] :] = 0.0
        # The longest n-gram that an n-gram without its first word ends with; and whether a history must be kept.
        self._suffixes = np.full(self._empty + 1, self._empty)
        matters = self._backoffs != 0
        matters[self._empty] = True
        for k, table in enumerate(tables[1:]):
            contexts = table.contexts + offsets[k]
            matters[contexts] = True
            self._suffixes[offsets[k + 1] : offsets[k + 2]] = self._match(self._suffixes[contexts], table.words)[1]
        # Suffixes are of lower orders, so that they are settled when their turn comes.
        self._histories = np.arange(self._empty + 1)
        for k in range(len(tables)):
            nodes = offsets[k] + np.flatnonzero(~matters[offsets[k] : offsets[k + 1]])
            self._histories[nodes] = self._histories[self._suffixes[nodes]]

    @property
    def arrays(self) -> NgramArrays:
        """All that scores follow from."""
        return NgramArrays(
            self._keys,
            self._log_probs,
            self._backoffs,
            self._suffixes,
            self._histories,
            self._num_words,
            self._empty,
        )

    def _find(self, nodes: IntArray, words: IntArray) -> IntArray:
        """Return the nodes of n-grams, -1 where there is none."""
        if not len(self._keys):
            return np.where(nodes == self._empty, words, -1)
        wanted = nodes * self._num_words + words
        rows = self._keys.searchsorted(wanted)
        found: IntArray = rows + self._num_words
        found[self._keys.take(rows, mode="clip") != wanted] = -1
        return np.where(nodes == self._empty, words, found)

    def _match(self, nodes: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        """Return the back-off weights met on the way to the longest n-grams, and their nodes."""
        weights = np.zeros(len(nodes))
        found = self._find(nodes, words)
        nodes = nodes.copy()
        while len(rows := np.flatnonzero(found < 0)):
            weights[rows] += self._backoffs[nodes[rows]]
            nodes[rows] = self._suffixes[nodes[rows]]
            found[rows] = self._find(nodes[rows], words[rows])
        return weights, found

    def contains(self, word: str) -> bool:
        return word in self._numbers and self._numbers[word] != self._unknown

    def index(self, word: str) -> int:
        return self._numbers.get(word, self._unknown)

    def start(self) -> int:
        return self._start

    def score(self, states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        asked = states * self._num_words + words
        # One slot per hash, where the last question stays; its whole key is compared, so that no answer is another's.
        slots = (asked * _ODD >> 40) & (MEMO_SIZE - 1)
        new = (self._asked.take(slots) != asked).nonzero()[0]
        scores, following = self._scores.take(slots), self._following.take(slots)
        if len(new):
            weights, found = self._match(states.take(new), words.take(new))
            scores[new] = weights + self._log_probs.take(found)
            following[new] = self._histories.take(found)
            slots = slots.take(new)
            self._asked[slots] = asked.take(new)
            self._scores[slots] = scores.take(new)
            self._following[slots] = following.take(new)
        return scores, following

    def finish(self, states: IntArray) -> FloatArray:
        return self.score(states, np.full(len(states), self._end))[0]


def is_ngram_file(path: str) -> bool:
    """Tell whether a file begins as ARPA files or KenLM's binaries do.

    Raises:
        DataError: it cannot be read.
    """
    start = next(read_blocks(path, "language model"), b"").lstrip()
    return start.startswith((BINARY_MAGIC, b"\\data\\", b"#"))


def open_ngram_model(path: str, flag: str = "--lm") -> LanguageModel:
    """Open an n-gram model: ARPA files are read here, KenLM's binaries by KenLM.

    Args:
        path: ARPA file, also gzipped, or KenLM binary.
        flag: the flag that named it, for messages.

    Raises:
        ConfigError: no such file.
        DataError: the file is malformed.
        MissingPackageError: a binary, and ufal-kenlm is not installed.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{flag}: no file {path}")
    return KenlmModel(path, flag) if is_binary(path) else NgramModel(path, read_arpa(path))
