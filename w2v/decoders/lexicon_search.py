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
    HISTORY,
    KEY,
    LM,
    NO_WORD,
    NODE,
    NUM_FIELDS,
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

FREE = -1  # an arc that continues a hypothesis whatever its last symbol was


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
        self.said = hashes(max(len(entries), unknown + 1, num_symbols), seed=2)
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
        # node; symbol, word and node that follow; symbol after which it would be that symbol, held; gain; bonus
        groups: list[tuple[Any, ...]] = [
            (inside, tree.branch_symbol, NO_WORD, tree.branch_node, tree.branch_symbol, tree.branch_gain, 0.0)
        ]
        # A word of one symbol that is held for several frames is said once.
        refused = np.where(at_end == ROOT, tree.ending_symbol, FREE)
        gain = -tree.best[at_end]
        groups += [(at_end, tree.ending_symbol, tree.ending_word, ROOT, refused, gain, options.word_score)]
        if options.unk_score > -np.inf:
            # Wherever words of the lexicon only begin.
            some = ~tree.is_word[tree.branch_node]
            owner = inside[some]
            groups += [(owner, tree.branch_symbol[some], unknown, ROOT, FREE, -tree.best[owner], options.unk_score)]
        owners = np.concatenate([group[0] for group in groups])
        order = owners.argsort(kind="stable")
        fields = [
            np.concatenate([np.broadcast_to(field, len(group[0])) for field, group in zip(column, groups)])[order]
            for column in zip(*(group[1:] for group in groups), strict=True)
        ]
        *following, self._refused, gained, bonus = fields
        self._following = np.stack(following)  # (3, A) SYMBOL, WORD, NODE
        # What an arc adds to the language model's part in advance, not weighed; and to the score
        self._gained = np.zeros(len(gained)) if self.is_unit_lm else gained
        self._added = options.lm_weight * self._gained + bonus
        self._counts = np.bincount(owners, minlength=len(nodes))
        self._ends = self._counts.cumsum()  # one after a node's last arc
        self._most_added = np.full(len(nodes), -np.inf)
        np.maximum.at(self._most_added, owners[order], self._added)

    def may_end(self, hypotheses: Hypotheses) -> BoolArray:
        between_words: BoolArray = hypotheses[NODE] == ROOT
        return between_words

    def held_symbols(self, hypotheses: Hypotheses, seconds: IntArray) -> IntArray:
        between_words = self.may_end(hypotheses)
        held = super().held_symbols(hypotheses, seconds)
        # Between words silence is what is held, whatever the last word ended with; once for equal stems.
        held[between_words] = self.silence
        held[seconds.compress(between_words.take(seconds))] = self.nothing
        return held

    def grow(self, beam: Beam, frame: Frame, floor: FloatArray) -> Hypotheses:
        source, arc, score = self._reachable(beam, frame, floor)
        grown = np.empty((NUM_FIELDS, len(source)), dtype=np.int64)
        beam.hypotheses[: BASE + 1].take(source, axis=1, out=grown[: BASE + 1], mode="clip")
        self._following.take(arc, axis=1, out=grown[SYMBOL : NODE + 1], mode="clip")
        grown[SOURCE] = source
        floats(grown)[SCORE] = score
        floats(grown)[LM] += self._gained.take(arc)
        self._ask(grown)
        np.bitwise_xor(grown[HISTORY], self._node_hash.take(grown[NODE]), out=grown[STEM])
        np.bitwise_xor(grown[STEM], self.symbol_hash.take(grown[SYMBOL]), out=grown[KEY])
        return grown

    def _reachable(self, beam: Beam, frame: Frame, floor: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
        """Return hypotheses, arcs after them that reach the floor, and scores without the language model's part."""
        before, alone = beam.hypotheses, beam.num_clips == 1
        score, node = floats(before)[SCORE], before[NODE]
        # Few hypotheses where a frame is clearly a blank: even the best other symbol leaves them below the floor.
        spare = beam.by_hypothesis(floor - frame.best[: len(floor)])
        hopeful = (score + self._most_added.take(node) >= spare).nonzero()[0]
        node = node.take(hopeful)
        counts = self._counts.take(node)
        source = hopeful.repeat(counts)
        # A node's arcs follow each other: 0, 1, 2, ... shifted per hypothesis to its first arc.
        arc = (self._ends.take(node) - counts.cumsum()).repeat(counts)
        arc += np.arange(len(arc))
        heard = self._following[0].take(arc)
        if not alone:
            heard += before[BASE].take(source)
        reached = score.take(source)
        reached += self._added.take(arc)
        reached += frame.tried.take(heard)
        least = floor if alone else beam.by_hypothesis(floor).take(source)
        kept = (reached >= least).nonzero()[0]
        # The same symbol again is not new: it is held. Only now, because few of the arcs are left.
        fresh = self._refused.take(arc.take(kept)) != before[SYMBOL].take(source.take(kept))
        kept = kept.compress(fresh)
        return source.take(kept), arc.take(kept), reached.take(kept)

    def _ask(self, grown: Hypotheses) -> None:
        """Add the language model's part, in place: of each symbol, or of the words that are complete."""
        said = grown[SYMBOL] if self.is_unit_lm else grown[WORD]
        ends = (said != NO_WORD).nonzero()[0]
        said = said.take(ends)
        lm, grown[STATE][ends] = self.ask(grown[STATE].take(ends), self.entries.take(said))
        floats(grown)[SCORE][ends] += self.weigh(lm)
        floats(grown)[LM][ends] += lm
        grown[HISTORY][ends] = longer(grown[HISTORY].take(ends), self.said.take(said))
