"""The searches of n-gram models as machine code, where numba is installed: the steps of `beam_search.py` and its kin.

There numpy advances all clips of a batch at once; here a loop advances one clip, as fast for a clip alone as for one of
many. Only the frames are walked here: the other code makes the arcs, ends the clips and follows the paths back. All
functions below `compiled` are plain Python, too, and tests run them as such.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from w2v.array_types import BoolArray, FloatArray, IntArray
from w2v.decoders.beam_search import LOWEST, BeamSearch, FoundPath, Frame, trace
from w2v.decoders.free_search import FreeSearch
from w2v.decoders.hypotheses import (
    HISTORY,
    KEY,
    LM,
    NO_WORD,
    NODE,
    NUM_FIELDS,
    ODD,
    SCORE,
    SOURCE,
    STATE,
    STEM,
    SYMBOL,
    WORD,
    Hypotheses,
)  # fmt: skip
from w2v.decoders.lexicon_search import LexiconSearch
from w2v.decoders.lexicon_tree import ROOT
from w2v.lm.ngram_model import NgramArrays, NgramModel
from w2v.types import BLANK

logger = logging.getLogger(__name__)


class Arcs(NamedTuple):
    """What a search walks on, in the form that numba compiles, with the numbers of the search.

    Attributes:
        following: (3, A) symbol, word and node after an arc.
        refused: (A,) last symbol of hypotheses that an arc does not continue.
        gained: (A,) what it adds to the language model's part in advance.
        added: (A,) what it adds to the score, besides the emission and the language model.
        ends: (N,) one after the last arc of a node.
        counts: (N,) arcs of a node.
        most_added: (N,) largest of `added` of a node.
        entries: numbers in the language model of words; of symbols, with a model over units.
        said: hashes of the same.
        node_hash: (N,).
        symbol_hash: (V + 1,).
        silence: the symbol of silence.
        silent_node: where silence is what is held: the root of a lexicon, or no node.
        is_unit_lm: the language model is over units.
        size: most hypotheses.
        threshold: most that a hypothesis is below the best one.
        lm_weight: weight of the language model.
    """

    following: IntArray
    refused: IntArray
    gained: FloatArray
    added: FloatArray
    ends: IntArray
    counts: IntArray
    most_added: FloatArray
    entries: IntArray
    said: IntArray
    node_hash: IntArray
    symbol_hash: IntArray
    silence: int
    silent_node: int
    is_unit_lm: bool
    size: int
    threshold: float
    lm_weight: float


class _CompiledSearch(BeamSearch):
    """Walks the frames of one clip after another."""

    model: NgramModel

    def arcs(self) -> Arcs:
        """Return what is searched."""
        raise NotImplementedError

    def _find(self, log_probs: npt.NDArray[np.float32], lengths: IntArray, nbest: int) -> list[list[FoundPath]]:
        advance, arcs, ngrams = compiled(), self.arcs(), self.model.arrays

        def walk(*frames: Any) -> Any:
            return advance(*frames, arcs, ngrams)

        return [self._find_one(log_probs[:length, i : i + 1], nbest, walk) for i, length in enumerate(lengths.tolist())]

    def _find_one(self, log_probs: npt.NDArray[np.float32], nbest: int, walk: Callable[..., Any]) -> list[FoundPath]:
        # (N, NUM_FIELDS): here a hypothesis is what lies together
        beam = np.ascontiguousarray(self._start(1).hypotheses.T)
        seconds = np.zeros(1, dtype=np.bool_)
        steps: list[npt.NDArray[np.int32]] = []
        for emissions, tried, best in self._blocks(log_probs):
            waiting = self.waiting_emissions(Frame(emissions, tried, best))
            beam, seconds, said, counts = walk(beam, seconds, waiting[:, 0], tried[:, 0], best[:, 0])
            steps += [step[:, :count] for step, count in zip(said, counts.tolist(), strict=True)]
        ended = self._end(np.ascontiguousarray(beam.T), 0, nbest)
        return trace(steps, [ended], log_probs, np.array([len(log_probs)]), self.silence)[0]


class CompiledLexiconSearch(_CompiledSearch, LexiconSearch):
    """`LexiconSearch` with an n-gram model."""

    def arcs(self) -> Arcs:
        return Arcs(
            following=self._following,
            refused=self._refused,
            gained=self._gained,
            added=self._added,
            ends=self._ends,
            counts=self._counts,
            most_added=self._most_added,
            node_hash=self._node_hash,
            silent_node=ROOT,
            is_unit_lm=self.is_unit_lm,
            **_numbers(self),
        )


class CompiledFreeSearch(_CompiledSearch, FreeSearch):
    """`FreeSearch` with an n-gram model: a lexicon of one node, which every symbol but the blank leads back to."""

    def arcs(self) -> Arcs:
        symbols = np.delete(np.arange(self.nothing), BLANK)
        none, nothing = np.zeros(len(symbols)), np.zeros(1, dtype=np.int64)
        return Arcs(
            following=np.stack([symbols, np.full_like(symbols, NO_WORD), np.full_like(symbols, ROOT)]),
            refused=symbols,
            gained=none,
            added=none,
            ends=nothing + len(symbols),
            counts=nothing + len(symbols),
            most_added=np.zeros(1),
            node_hash=nothing,
            silent_node=-1,
            is_unit_lm=True,
            **_numbers(self),
        )


def _numbers(search: LexiconSearch | FreeSearch) -> dict[str, Any]:
    """Return the fields of `Arcs` that both searches have."""
    return dict(
        entries=search.entries,
        said=search.said,
        symbol_hash=search.symbol_hash,
        silence=search.silence,
        size=search.options.beam_size,
        threshold=float(search.options.beam_threshold),
        lm_weight=float(search.options.lm_weight),
    )


def is_installed() -> bool:
    """Tell whether numba is."""
    return importlib.util.find_spec("numba") is not None


@cache
def compiled() -> Callable[..., Any]:
    """Return `search` as machine code. numba keeps it on disk for later processes, where it finds a folder for it."""
    import numba
    from numba.extending import register_jitable

    logger.info("beam search as machine code; the first time on a machine, numba compiles it for some 20 seconds")
    for part in (_wait, _copy, _count_arcs, _grow, _say, _match, _choose, _is_new):
        register_jitable(part)
    function: Callable[..., Any]
    try:
        function = numba.njit(cache=True)(search)
    except RuntimeError:
        function = numba.njit(search)
    return function


def search(
    beam: Hypotheses,
    seconds: BoolArray,
    emissions: FloatArray,
    tried: FloatArray,
    best: FloatArray,
    arcs: Arcs,
    ngrams: NgramArrays,
) -> tuple[Hypotheses, BoolArray, npt.NDArray[np.int32], IntArray]:
    """Advance the hypotheses of one clip over some frames.

    Args:
        beam: (N, NUM_FIELDS), best first.
        seconds: (N,) whether a better hypothesis has the same stem.
        emissions: (T, V + 1).
        tried: (T, V + 1) the same, -inf for symbols that are not tried.
        best: (T,) largest of `tried` without the blank.
        arcs: what is searched.
        ngrams: the language model.

    Returns:
        beam and seconds after these frames; (T, 3, size) source, symbol and word of each hypothesis after each frame;
        (T,) their numbers.
    """
    steps = np.empty((len(emissions), 3, arcs.size), dtype=np.int32)
    counts = np.empty(len(emissions), dtype=np.int64)
    pool = np.empty((0, NUM_FIELDS), dtype=np.int64)
    slots = 16
    while slots < 4 * arcs.size:
        slots *= 2
    # Two hash tables, of keys and of stems: the frame in which a slot was filled, and with what.
    tables = np.full((2, slots, 2), -1, dtype=np.int64)
    for t in range(len(emissions)):
        most = 2 * len(beam) + _count_arcs(beam, arcs.counts)
        if most > len(pool):
            pool = np.empty((2 * most, NUM_FIELDS), dtype=np.int64)
        first, floor = _wait(pool, beam, seconds, emissions[t], arcs)
        floor = floor if arcs.lm_weight >= 0 else LOWEST
        count = _grow(pool, first, beam, tried[t], floor, best[t], arcs)
        _say(pool, first, count, arcs, ngrams)
        beam, seconds = _choose(pool, count, tables, t, arcs)
        counts[t] = len(beam)
        for i in range(len(beam)):
            for k in range(3):
                steps[t, k, i] = beam[i, SOURCE + k]
    return beam, seconds, steps, counts


def _wait(
    pool: Hypotheses, beam: Hypotheses, seconds: BoolArray, emission: FloatArray, arcs: Arcs
) -> tuple[int, float]:
    """Put blanks and held symbols into the pool; return how many, and the score that a new symbol must reach."""
    number = len(beam)
    score, pool_numbers = beam.view(np.float64), pool.view(np.float64)
    waiting = np.full(2 * number, -np.inf)
    held = np.empty(number, dtype=np.int64)
    for i in range(number):
        between_words = beam[i, NODE] == arcs.silent_node
        held[i] = arcs.silence if between_words else beam[i, SYMBOL]
        if not seconds[i]:
            waiting[i] = score[i, SCORE] + emission[BLANK]
        if held[i] != BLANK and not (seconds[i] and between_words):
            waiting[number + i] = score[i, SCORE] + emission[held[i]]
    ordered = np.sort(waiting)
    floor = max(LOWEST, ordered[-1] - arcs.threshold) if number else LOWEST
    if 2 * number > arcs.size:
        floor = max(floor, ordered[2 * number - arcs.size])
    count = 0
    for place in range(2 * number):
        if waiting[place] >= floor:
            i = place % number
            symbol = BLANK if place < number else held[i]
            _copy(beam, i, pool, count)
            pool_numbers[count, SCORE] = waiting[place]
            pool[count, SOURCE], pool[count, SYMBOL], pool[count, WORD] = i, symbol, NO_WORD
            pool[count, KEY] = beam[i, STEM] ^ arcs.symbol_hash[symbol]
            count += 1
    return count, floor


def _copy(source: Hypotheses, i: int, target: Hypotheses, j: int) -> None:
    for k in range(NUM_FIELDS):
        target[j, k] = source[i, k]


def _count_arcs(beam: Hypotheses, counts: IntArray) -> int:
    number = 0
    for i in range(len(beam)):
        number += counts[beam[i, NODE]]
    return number


def _grow(
    pool: Hypotheses, count: int, beam: Hypotheses, tried: FloatArray, floor: float, best: float, arcs: Arcs
) -> int:
    """Put the continuations by new symbols into the pool, their arcs in NODE; return how many it holds."""
    score, pool_numbers = beam.view(np.float64), pool.view(np.float64)
    # Local names: compiled code counts references whenever a field of a tuple is fetched.
    heard, refused, added = arcs.following[0], arcs.refused, arcs.added
    for i in range(len(beam)):
        node, symbol, so_far = beam[i, NODE], beam[i, SYMBOL], score[i, SCORE]
        if so_far + arcs.most_added[node] < floor - best:
            continue
        for arc in range(arcs.ends[node] - arcs.counts[node], arcs.ends[node]):
            reached = so_far + added[arc] + tried[heard[arc]]
            if reached >= floor and refused[arc] != symbol:
                _copy(beam, i, pool, count)
                pool_numbers[count, SCORE] = reached
                pool[count, SOURCE], pool[count, NODE] = i, arc
                count += 1
    return count


def _say(pool: Hypotheses, first: int, count: int, arcs: Arcs, ngrams: NgramArrays) -> None:
    """Set the fields of continuations, with the language model's part."""
    numbers = pool.view(np.float64)
    following, gained = arcs.following, arcs.gained
    entries, word_hash, node_hash, symbol_hash = arcs.entries, arcs.said, arcs.node_hash, arcs.symbol_hash
    for i in range(first, count):
        arc = pool[i, NODE]
        for k in range(3):
            pool[i, SYMBOL + k] = following[k, arc]
        numbers[i, LM] += gained[arc]
        said = pool[i, SYMBOL] if arcs.is_unit_lm else pool[i, WORD]
        if said != NO_WORD:
            weight, node = _match(pool[i, STATE], entries[said], ngrams)
            lm = weight + ngrams.log_probs[node]
            pool[i, STATE] = ngrams.histories[node]
            numbers[i, LM] += lm
            numbers[i, SCORE] += arcs.lm_weight * lm if lm > -np.inf else lm
            pool[i, HISTORY] = pool[i, HISTORY] * ODD + word_hash[said]
        pool[i, STEM] = pool[i, HISTORY] ^ node_hash[pool[i, NODE]]
        pool[i, KEY] = pool[i, STEM] ^ symbol_hash[pool[i, SYMBOL]]


def _match(history: int, word: int, ngrams: NgramArrays) -> tuple[float, int]:
    """Return the back-off weights met on the way to the longest n-gram, and its node."""
    keys, num_words = ngrams.keys, ngrams.num_words
    weight = 0.0
    while history != ngrams.empty:
        key = history * num_words + word
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < len(keys) and keys[low] == key:
            return weight, low + num_words
        weight += ngrams.backoffs[history]
        history = ngrams.suffixes[history]
    return weight, word


def _choose(pool: Hypotheses, count: int, tables: IntArray, t: int, arcs: Arcs) -> tuple[Hypotheses, BoolArray]:
    """Return the best of the pool, best first, and which of them have a better one of the same stem."""
    falling = -pool.view(np.float64)[:count, SCORE]
    order = np.argsort(falling, kind="mergesort")
    chosen = np.empty((min(count, arcs.size), NUM_FIELDS), dtype=np.int64)
    seconds = np.zeros(len(chosen), dtype=np.bool_)
    number = 0
    for place in order:
        if number == arcs.size or falling[place] > min(falling[order[0]] + arcs.threshold, -LOWEST):
            break
        if _is_new(tables[0], pool[place, KEY], t):
            seconds[number] = not _is_new(tables[1], pool[place, STEM], t)
            _copy(pool, place, chosen, number)
            number += 1
    return chosen[:number], seconds[:number]


def _is_new(table: IntArray, key: int, t: int) -> bool:
    """Put a key into a table, unless it is there."""
    mask = len(table) - 1
    slot = key & mask
    while table[slot, 0] == t:
        if table[slot, 1] == key:
            return False
        slot = (slot + 1) & mask
    table[slot, 0], table[slot, 1] = t, key
    return True
