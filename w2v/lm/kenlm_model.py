"""n-gram models through the package kenlm, which alone reads KenLM's binaries."""

from __future__ import annotations

from typing import Any

import numpy as np

from w2v.array_types import FloatArray, IntArray
from w2v.errors import DataError, MissingPackageError
from w2v.lm.language_model import LanguageModel
from w2v.lm.ngram_table import SENTENCE_END, SENTENCE_START, UNKNOWN
from w2v.lm.vocabulary import read_vocabulary


class KenlmModel(LanguageModel):
    """An n-gram model that KenLM holds in memory.

    KenLM's states cannot be listed, so each new one gets the next integer; equal states are equal to KenLM.

    Args:
        path: ARPA file or KenLM binary.
        flag: the flag that named it, for messages.

    Raises:
        ConfigError: no such file.
        DataError: KenLM cannot read it.
        MissingPackageError: ufal-kenlm is not installed.
    """

    log_base = 10.0

    def __init__(self, path: str, flag: str = "--lm") -> None:
        self.path = path
        self.words = read_vocabulary(path, flag)
        self._kenlm, self._model = _load(path)
        self._spellings = [UNKNOWN]
        self._numbers = {UNKNOWN: 0}
        start = self._kenlm.State()
        self._model.BeginSentenceWrite(start)
        self._states: list[Any] = [start]
        self._state_numbers: dict[Any, int] = {start: 0}

    def contains(self, word: str) -> bool:
        return word in self._model

    def index(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            number = 0
            if word in self._model:
                number = self._numbers[word] = len(self._spellings)
                self._spellings.append(word)
        return number

    def start(self) -> int:
        return 0

    def score(self, states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        scores = np.empty(len(states))
        following = np.empty(len(states), dtype=np.int64)
        base_score, spellings, known = self._model.BaseScore, self._spellings, self._states
        for i, (state, word) in enumerate(zip(states.tolist(), words.tolist(), strict=True)):
            after = self._kenlm.State()
            scores[i] = base_score(known[state], spellings[word], after)
            number = self._state_numbers.setdefault(after, len(known))
            if number == len(known):
                known.append(after)
            following[i] = number
        return scores, following

    def finish(self, states: IntArray) -> FloatArray:
        after = self._kenlm.State()
        return np.array(
            [self._model.BaseScore(self._states[state], SENTENCE_END, after) for state in states.tolist()], dtype=float
        )

    def forget(self) -> None:
        del self._states[1:]
        self._state_numbers = {self._states[0]: 0}


def _load(path: str) -> tuple[Any, Any]:
    try:
        import kenlm
    except ImportError as e:
        raise MissingPackageError("ufal-kenlm", "kenlm", "a KenLM binary") from e
    try:
        model = kenlm.Model(path)
    except (OSError, RuntimeError) as e:
        raise DataError(f"{path} cannot be read by KenLM: {' '.join(str(e).split())}") from e
    for word in (SENTENCE_START, SENTENCE_END):
        if word not in model:
            raise DataError(f"{path}: the language model has no {word}")
    return kenlm, model
