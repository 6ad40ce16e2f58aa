"""Our own beam search over a language model: bound to a lexicon where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from w2v.decoders.beam_search import BeamSearch, SearchOptions
from w2v.decoders.free_search import FreeSearch
from w2v.decoders.lexicon_search import LexiconSearch
from w2v.decoders.lexicon_tree import LexiconTree
from w2v.decoders.search_space import SearchSpace
from w2v.lm.language_model import FloatArray, IntArray, LanguageModel

# Words whose first scores are asked for at once: a Transformer holds a context for each.
WORDS_AT_ONCE = 4096


def build_search(options: SearchOptions, model: LanguageModel, space: SearchSpace) -> BeamSearch:
    """Return the search of a space with a language model."""
    units, words = _numbers(model, space.units), _numbers(model, space.entries)
    if not space.words:
        return FreeSearch(options, model, space.silence, entries=units)
    scores = np.zeros(len(words)) if space.is_unit_lm else _first_scores(model, words)
    # A word that the language model rules out only takes up room in the beam.
    kept = [i for i, word in enumerate(space.spelled) if scores[word] > -np.inf]
    tree = LexiconTree.build(
        [space.spellings[i] for i in kept], [space.spelled[i] for i in kept], scores[[space.spelled[i] for i in kept]]
    )
    return LexiconSearch(
        options,
        model,
        space.silence,
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
