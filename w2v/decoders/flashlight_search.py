"""Beam search through flashlight-text, where it is installed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from w2v.decoders.beam_search import FoundPath, SearchOptions
from w2v.decoders.search_space import UNKNOWN, SearchSpace
from w2v.errors import DataError
from w2v.lm.kenlm_model import KenlmModel
from w2v.lm.vocabulary import read_vocabulary
from w2v.types import BLANK


class FlashlightSearch:
    """flashlight-text's search over an n-gram model, which its own KenLM reads.

    Args:
        flashlight: from `import_flashlight`.
        options: the numbers.
        path: the n-gram model.
        space: what is searched.

    Raises:
        DataError: KenLM cannot read the model.
    """

    def __init__(self, flashlight: SimpleNamespace, options: SearchOptions, path: str, space: SearchSpace) -> None:
        self._flashlight = flashlight
        self._space = space
        self._lm = _load_lm(flashlight, path, space.units if space.is_unit_lm else space.entries)
        self._trie = self._tree() if space.words else None
        self._search = self._build(options)

    def reweighed(self, options: SearchOptions) -> FlashlightSearch:
        """Return a search with other numbers over the same language model and lexicon."""
        other = copy.copy(self)
        other._search = other._build(options)
        return other

    def _build(self, options: SearchOptions) -> Any:
        flashlight, space = self._flashlight, self._space
        common = dict(
            beam_size=options.beam_size,
            beam_size_token=options.beam_size_token,
            beam_threshold=options.beam_threshold,
            lm_weight=options.lm_weight,
            sil_score=options.sil_score,
            log_add=False,
            criterion_type=flashlight.CriterionType.CTC,
        )
        if space.words:
            lexicon_options = flashlight.LexiconDecoderOptions(
                word_score=options.word_score, unk_score=options.unk_score, **common
            )
            return flashlight.LexiconDecoder(
                lexicon_options, self._trie, self._lm, space.silence, BLANK, space.unknown, [], space.is_unit_lm
            )
        return flashlight.LexiconFreeDecoder(
            flashlight.LexiconFreeDecoderOptions(**common), self._lm, space.silence, BLANK, []
        )

    def _tree(self) -> Any:
        """Return a prefix tree whose nodes know the best unigram score below them."""
        space = self._space
        tree = self._flashlight.Trie(len(space.units), space.silence)
        start = self._lm.start(False)
        for spelling, word in zip(space.spellings, space.spelled, strict=True):
            score = 0.0 if space.is_unit_lm else self._lm.score(start, word)[1]
            tree.insert(list(spelling), word, score)
        tree.smear(self._flashlight.SmearingMode.MAX)
        return tree

    def find(self, log_probs: Tensor, lengths: Tensor, nbest: int) -> list[list[FoundPath]]:
        """Return the best paths of each clip; see `BeamSearch.find`."""
        return [self._find(rows[:length].contiguous(), nbest) for rows, length in zip(log_probs, lengths.tolist())]

    def _find(self, log_probs: Tensor, nbest: int) -> list[FoundPath]:
        results = self._search.decode(log_probs.data_ptr(), *log_probs.shape)
        return [
            FoundPath(
                score=result.score,
                emission=result.emittingModelScore,
                lm=result.lmScore,
                symbols=result.tokens,
                words=[word for word in result.words if word >= 0],
            )
            for result in results[:nbest]
        ]


class ModelWords:
    """Which words an n-gram model holds, whatever its file format, without its probabilities.

    Args:
        path: ARPA file or KenLM binary.

    Raises:
        ConfigError: no such file.
        DataError: it is neither.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.words = read_vocabulary(path, "--lm-model")
        self._known = None if self.words is None else frozenset(self.words)

    def contains(self, word: str) -> bool:
        """Tell whether the model knows `word`."""
        return word in self._known if self._known is not None else self._model.contains(word)

    @cached_property
    def _model(self) -> KenlmModel:
        return KenlmModel(self.path, "--lm-model")


def _load_lm(flashlight: SimpleNamespace, path: str, entries: Sequence[str]) -> Any:
    # flashlight's own helper walks an unordered map, so the columns of a unit model would be shuffled.
    numbered = flashlight.WordNumbers(list(entries))
    if numbered.contains(UNKNOWN):
        numbered.set_default_index(numbered.get_index(UNKNOWN))
    try:
        return flashlight.KenLM(path, numbered)
    except RuntimeError as e:
        reason = " ".join(str(e).split("\n")[-1].split())
        raise DataError(f"--lm-model {path} cannot be read by KenLM: {reason}") from e


def import_flashlight() -> SimpleNamespace | None:
    """Return one namespace with the parts of flashlight-text that are used here, None where it is not installed."""
    try:
        from flashlight.lib.text import decoder
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary as WordNumbers
    except ImportError:
        return None
    return SimpleNamespace(
        KenLM=KenLM,
        WordNumbers=WordNumbers,
        Trie=decoder.Trie,
        SmearingMode=decoder.SmearingMode,
        CriterionType=decoder.CriterionType,
        LexiconDecoder=decoder.LexiconDecoder,
        LexiconDecoderOptions=decoder.LexiconDecoderOptions,
        LexiconFreeDecoder=decoder.LexiconFreeDecoder,
        LexiconFreeDecoderOptions=decoder.LexiconFreeDecoderOptions,
    )
