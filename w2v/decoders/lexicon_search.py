"""Beam search bound to the words of a lexicon; the language model is over words, or over units.

The rules are those of flashlight-text's LexiconDecoder for CTC, its treatment of repeated symbols included.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from w2v.array_types import BoolArray, FloatArray, IntArray
from w2v.decoders.beam_search import Beam, BeamSearch, Frame, SearchOptions
from w2v.decoders.hypotheses import (
    BASE,
    CLIP,
    HISTORY,
    LM,
    NO_WORD,
    NODE,
    SCORE,
    SOURCE,
    STATE,
    STEM,
    SYMBOL,
    WORD,
    Hypotheses,
    floats,
    hashes,
    longer,
)  # fmt: skip
from w2v.decoders.lexicon_tree import ROOT, LexiconTree
from w2v.lm.language_model import LanguageModel

# Columns of an arc, 8 bytes each. The first two alone decide whether it is reached.
ADDED = 0  # float: what it adds to a score, besides the emission and the language model
HEARD = 1  # its symbol
GAINED = 2  # float: what it adds to the language model's part in advance, not weighed
REFUSED = 3  # last symbol of a hypothesis that it does not continue: that would be the same symbol, held
LEADS_TO = 4  # node
COMPLETES = 5  # word, or NO_WORD
FREE = -1


class LexiconSearch(BeamSearch):
    """Beam search over a prefix tree.

    Args:
        options: the numbers.
        model: the language model.
        silence: the symbol of silence.
        tree: the lexicon.
        entries: numbers in the language model of the tree's words; of the symbols, with a model over units.
        unknown: the word that stands for all that is not in the tree.
        is_unit_lm: the language model is over units.
    """

    def __init__(
        self,
        options: SearchOptions,
        model: LanguageModel,
        silence: int,
        num_symbols: int,
        *,
        tree: LexiconTree,
        entries: IntArray,
        unknown: int,
        is_unit_lm: bool,
    ) -> None:
        super().__init__(options, model, silence, num_symbols)
        self.entries = entries
        self.is_unit_lm = is_unit_lm
        self._said = hashes(max(len(entries), unknown + 1, num_symbols), seed=2)
        self._node_hash = hashes(len(tree.best), seed=3)
        self._node_hash[ROOT] = 0
        self._tree, self._unknown = tree, unknown
        self._build_arcs(tree, unknown)

    def reweighed(self, options: SearchOptions) -> LexiconSearch:
        other = copy.copy(self)
        other.options = options
        other._build_arcs(self._tree, self._unknown)  # arcs hold weighed numbers
        return other

    def _build_arcs(self, tree: LexiconTree, unknown: int) -> None:
        """Put the steps inside words, the ends of words and those of unknown words into one table, sorted by node."""
        options, nodes = self.options, np.arange(len(tree.best))
        inside, at_end = (np.repeat(nodes, np.diff(starts)) for starts in (tree.branch_start, tree.ending_start))
        groups: list[tuple[Any, ...]] = [
            (inside, tree.branch_gain, 0.0, tree.branch_symbol, tree.branch_symbol, tree.branch_node, NO_WORD)
        ]
        # A word of one symbol that is held for several frames is said once.
        held = np.where(at_end == ROOT, tree.ending_symbol, FREE)
        groups += [(at_end, -tree.best[at_end], options.word_score, tree.ending_symbol, held, ROOT, tree.ending_word)]
        if options.unk_score > -np.inf:
            # Wherever words of the lexicon only begin.
            some = ~tree.is_word[tree.branch_node]
            owner, symbol = inside[some], tree.branch_symbol[some]
            groups += [(owner, -tree.best[owner], options.unk_score, symbol, FREE, ROOT, unknown)]
        parts = []
        for owner, gained, bonus, symbol, refused, node, word in groups:
            part = np.empty((len(owner), 6), dtype=np.int64)
            gained = np.zeros(len(owner)) if self.is_unit_lm else gained
            floats(part)[:, ADDED] = options.lm_weight * gained + bonus
            floats(part)[:, GAINED] = gained
            part[:, HEARD], part[:, REFUSED], part[:, LEADS_TO], part[:, COMPLETES] = symbol, refused, node, word
            parts.append(part)
        owners, arcs = np.concatenate([group[0] for group in groups]), np.concatenate(parts)
        order = owners.argsort(kind="stable")
        self._arcs = arcs[order]
        self._tests = np.ascontiguousarray(self._arcs[:, [ADDED, HEARD]])
        counts = np.bincount(owners, minlength=len(nodes))
        # (N, 2) first arc of a node, and how many there are
        self._arcs_of = np.stack([np.cumsum(counts) - counts, counts], axis=1)
        self._most_added = np.full(len(nodes), -np.inf)
        np.maximum.at(self._most_added, owners, floats(arcs)[:, ADDED])

    def may_end(self, rows: Hypotheses) -> BoolArray:
        between_words: BoolArray = rows[:, NODE] == ROOT
        return between_words

    def held_symbols(self, rows: Hypotheses, seconds: IntArray) -> IntArray:
        node = rows[:, NODE]
        held = self._held.take(rows[:, SYMBOL])
        # Between words silence is what is held, whatever the last word ended with; once for equal stems.
        held[node == ROOT] = self.silence
        held[seconds[node.take(seconds) == ROOT]] = self.nothing
        return held

    def grow(self, beam: Beam, frame: Frame, floor: FloatArray) -> Hypotheses:
        rows = beam.rows
        source, place, score = self._reachable(beam, frame, floor)
        arcs = self._arcs.take(place, axis=0)
        grown: Hypotheses = rows.take(source, axis=0)
        grown[:, SOURCE] = source
        grown[:, SYMBOL] = arcs[:, HEARD]
        grown[:, NODE] = arcs[:, LEADS_TO]
        grown[:, WORD] = arcs[:, COMPLETES]
        floats(grown)[:, SCORE] = score
        floats(grown)[:, LM] += floats(arcs)[:, GAINED]
        # The same symbol again is not new: it is held. Only now, because few arcs are left.
        fresh = (arcs[:, REFUSED] != rows[:, SYMBOL].take(source)).nonzero()[0]
        grown = grown.take(fresh, axis=0)
        self._ask(grown)
        np.bitwise_xor(grown[:, HISTORY], self._node_hash.take(grown[:, NODE]), out=grown[:, STEM])
        return grown

    def _reachable(self, beam: Beam, frame: Frame, floor: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
        """Return hypotheses, arcs after them that reach the floor, and scores without the language model's part."""
        rows = beam.rows
        score, node = floats(rows)[:, SCORE], rows[:, NODE]
        spare = floor - frame.best[: len(floor)]
        base: IntArray | int = 0
        if beam.num_clips > 1:
            clip, base = rows[:, CLIP], rows[:, BASE]
            floor, spare = floor.take(clip), spare.take(clip)
        # Few hypotheses where a frame is clearly a blank: even the best other symbol leaves them below the floor.
        hopeful = (score + self._most_added.take(node) >= spare).nonzero()[0]
        first, counts = self._arcs_of.take(node.take(hopeful), axis=0).T
        source = hopeful.repeat(counts)
        # Rows of a node's arcs follow each other: 0, 1, 2, ... shifted per hypothesis to its first arc.
        place = np.arange(len(source)) + (first - counts.cumsum() + counts).repeat(counts)
        # Some ten times as many arcs are looked at as are kept, so only two of their columns are gathered.
        tests = self._tests.take(place, axis=0)
        heard = tests[:, HEARD] if isinstance(base, int) else tests[:, HEARD] + base.take(source)
        reached = score.take(source) + floats(tests)[:, ADDED] + frame.tried.take(heard)
        kept = (reached >= (floor if isinstance(base, int) else floor.take(source))).nonzero()[0]
        return source.take(kept), place.take(kept), reached.take(kept)

    def _ask(self, grown: Hypotheses) -> None:
        """Add the language model's part, in place: of each symbol, or of the words that are complete."""
        said = grown[:, SYMBOL] if self.is_unit_lm else grown[:, WORD]
        ends = (said != NO_WORD).nonzero()[0]
        if not len(ends):
            return
        said, asking = said.take(ends), grown.take(ends, axis=0)
        lm, asking[:, STATE] = self.ask(asking[:, STATE], self.entries.take(said))
        numbers = floats(asking)
        numbers[:, SCORE] += self.weigh(lm)
        numbers[:, LM] += lm
        asking[:, HISTORY] = longer(asking[:, HISTORY], self._said.take(said))
        grown[ends] = asking
