"""From the paths of a beam search to hypotheses, whichever search found them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from w2v.decoders import compiled_search
from w2v.decoders.base import Decoder, DecoderConfig
from w2v.decoders.beam_search import BeamSearch, FoundPath, SearchOptions
from w2v.decoders.free_search import FreeSearch
from w2v.decoders.lexicon_search import LexiconSearch
from w2v.decoders.lexicon_tree import LexiconTree
from w2v.decoders.search_space import SearchSpace
from w2v.errors import ConfigError
from w2v.lm.language_model import LanguageModel
from w2v.lm.ngram_model import NgramModel
from w2v.types import BLANK, FloatArray, Hypothesis, IntArray


class Search(Protocol):
    """`BeamSearch` and `FlashlightSearch` are such."""

    def find(self, log_probs: Tensor, lengths: Tensor, nbest: int) -> list[list[FoundPath]]: ...
    def reweighed(self, options: SearchOptions) -> Search: ...


class BeamDecoder(Decoder):
    """Base class of decoders by beam search.

    The score of a hypothesis is sum of frame log-probabilities + lm_weight * log P(words, </s>) + word_score * words +
    sil_weight * silent frames; the logarithm is the language model's own.

    Attributes:
        space: what is searched.
        search: what searches it.
    """

    space: SearchSpace
    search: Search

    def reweighed(self, config: DecoderConfig) -> BeamDecoder:
        other = copy.copy(self)
        other.config = config
        # The language model and what is searched stay open: they take longer than the search of a small set.
        other.search = self.search.reweighed(SearchOptions.from_config(config))
        return other

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        found: list[list[Hypothesis]] = [[Hypothesis(tokens=[], words=[], score=0.0)] for _ in range(len(lengths))]
        spoken = lengths.nonzero()[:, 0]
        if not len(spoken):
            return found
        paths = self.search.find(log_probs[spoken].float(), lengths[spoken], self.config.nbest)
        for clip, length, nbest in zip(spoken.tolist(), lengths[spoken].tolist(), paths, strict=True):
            hypotheses = [self._hypothesis(path, length) for path in nbest]
            found[clip] = hypotheses or [Hypothesis(tokens=[], words=[], score=-math.inf)]
        return found

    def _hypothesis(self, path: FoundPath, num_frames: int) -> Hypothesis:
        tokens, timesteps = _collapse(path.symbols, num_frames)
        words = [self.space.words[word] for word in path.words] if self.space.words else self.words(tokens)
        scores = {"emission": path.emission, "lm": path.lm}
        return Hypothesis(tokens=tokens, words=words, score=path.score, scores=scores, timesteps=timesteps)


def model_path(config: DecoderConfig, kind: str) -> str:
    """Return `--lm-model`.

    Raises:
        ConfigError: it is not given.
    """
    if config.kenlm_model is None:
        raise ConfigError(f"--w2l-decoder {config.w2l_decoder} needs --lm-model FILE ({kind})")
    return config.kenlm_model


def _collapse(path: Sequence[int], num_frames: int) -> tuple[list[int], list[int]]:
    """Return tokens without repetitions and blanks, and the frame of each.

    A path has one silence before the first frame and one after the last; as in the original they stay in the tokens,
    and their frames are the nearest real ones.
    """
    starts = [i for i, token in enumerate(path) if token != BLANK and (i == 0 or token != path[i - 1])]
    return [path[i] for i in starts], [min(max(i - 1, 0), num_frames - 1) for i in starts]


# Words whose first scores are asked for at once: a Transformer holds a context for each.
WORDS_AT_ONCE = 4096


def build_search(options: SearchOptions, model: LanguageModel, space: SearchSpace) -> BeamSearch:
    """Return the search of a space with a language model; compiled, if it is an n-gram model and numba is there."""
    units, words = _numbers(model, space.units), _numbers(model, space.entries)
    free, bound = FreeSearch, LexiconSearch
    if isinstance(model, NgramModel) and compiled_search.is_installed():
        free, bound = compiled_search.CompiledFreeSearch, compiled_search.CompiledLexiconSearch
    if not space.words:
        return free(options, model, space.silence, entries=units)
    scores = np.zeros(len(words)) if space.is_unit_lm else _first_scores(model, words)
    # A word that the language model rules out only takes up room in the beam.
    kept = [i for i, word in enumerate(space.spelled) if scores[word] > -np.inf]
    tree = LexiconTree.build(
        [space.spellings[i] for i in kept], [space.spelled[i] for i in kept], scores[[space.spelled[i] for i in kept]]
    )
    return bound(
        options,
        model,
        space.silence,
        len(units),
        tree=tree,
        entries=units if space.is_unit_lm else words,
        unknown=space.unknown,
        is_unit_lm=space.is_unit_lm,
    )


def _numbers(model: LanguageModel, words: Sequence[str]) -> IntArray:
    return np.array([model.index(word) for word in words], dtype=np.int64)


def _first_scores(model: LanguageModel, words: IntArray) -> FloatArray:
    """Return the log-probability of each word as the first of a sentence."""
    parts = []
    for first in range(0, len(words), WORDS_AT_ONCE):
        some = words[first : first + WORDS_AT_ONCE]
        parts.append(model.score(np.full(len(some), model.start()), some)[0])
        model.forget()
    return np.concatenate(parts)
