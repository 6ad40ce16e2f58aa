"""Beam search bound to the words of a lexicon; the language model is over words, or over units.

The rules are those of flashlight-text's LexiconDecoder for CTC, its treatment of repeated symbols included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from w2v.decoders.beam_search import NO_WORD, Beam, BeamSearch, Candidates, Frame, SearchOptions, join, mix
from w2v.decoders.lexicon_tree import ROOT, LexiconTree, expand
from w2v.functional.best_path import BLANK
from w2v.lm.language_model import FloatArray, IntArray, LanguageModel


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
        *,
        tree: LexiconTree,
        entries: IntArray,
        unknown: int,
        is_unit_lm: bool,
    ) -> None:
        super().__init__(options, model, silence)
        self.tree = tree
        self.entries = entries
        self.unknown = unknown
        self.is_unit_lm = is_unit_lm

    def may_end(self, beam: Beam) -> npt.NDArray[np.bool_]:
        between_words: npt.NDArray[np.bool_] = beam.node == ROOT
        return between_words

    def waiting(self, beam: Beam, frame: Frame) -> Candidates:
        # Between words silence is what is held, whatever the last word ended with.
        between = self.may_end(beam)
        held = np.flatnonzero(between | (beam.symbol != BLANK))
        blank = np.full(len(beam.clip), BLANK)
        source = np.concatenate([np.arange(len(beam.clip)), held])
        symbol = np.concatenate([blank, np.where(between, self.silence, beam.symbol)[held]])
        return beam.wait(source, symbol, frame.emissions)

    def growing(self, beam: Beam, frame: Frame, floor: FloatArray) -> Candidates:
        source, row = expand(self.tree.branch_start, beam.node)
        symbol, node = self.tree.branch_symbol[row], self.tree.branch_node[row]
        parts = []
        if self.options.unk_score > -np.inf:
            nameless = np.flatnonzero(~self.tree.is_word[node])
            word = np.full(len(nameless), self.unknown)
            parts.append(self._end_words(beam, frame, floor, source[nameless], symbol[nameless], word))
        anew = np.flatnonzero(symbol != beam.symbol[source])
        parts.append(self._begin_words(beam, frame, floor, source[anew], symbol[anew], node[anew]))
        source, row = expand(self.tree.ending_start, beam.node)
        symbol = self.tree.ending_symbol[row]
        # A word of one symbol that is held for several frames is said once.
        anew = np.flatnonzero((beam.node[source] != ROOT) | (beam.symbol[source] != symbol))
        word = self.tree.ending_word[row[anew]]
        parts.append(self._end_words(beam, frame, floor, source[anew], symbol[anew], word))
        return join(parts)

    def _begin_words(
        self, beam: Beam, frame: Frame, floor: FloatArray, source: IntArray, symbol: IntArray, node: IntArray
    ) -> Candidates:
        clip = beam.clip[source]
        score = beam.score[source] + frame.tried[clip, symbol]
        if self.is_unit_lm:
            return self._ask_units(beam, floor, source, symbol, score, node, np.full(len(source), NO_WORD))
        lm = self.tree.best[node] - self.tree.best[beam.node[source]]
        score += self.options.lm_weight * lm
        kept = np.flatnonzero(score >= floor[clip])
        source = source[kept]
        return Candidates(
            source=source,
            score=score[kept],
            lm=lm[kept],
            symbol=symbol[kept],
            node=node[kept],
            word=np.full(len(source), NO_WORD),
            state=beam.state[source],
            history=beam.history[source],
        )

    def _end_words(
        self, beam: Beam, frame: Frame, floor: FloatArray, source: IntArray, symbol: IntArray, word: IntArray
    ) -> Candidates:
        clip = beam.clip[source]
        bonus = np.where(word == self.unknown, self.options.unk_score, self.options.word_score)
        score = beam.score[source] + frame.tried[clip, symbol] + bonus
        if self.is_unit_lm:
            return self._ask_units(beam, floor, source, symbol, score, np.full(len(source), ROOT), word)
        given = self.tree.best[beam.node[source]]
        kept = self.may_reach(score - self.options.lm_weight * given, floor[clip])
        source, word = source[kept], word[kept]
        log_probs, state = self.ask(beam.state[source], self.entries[word])
        lm = log_probs - given[kept]
        return Candidates(
            source=source,
            score=score[kept] + self.weigh(lm),
            lm=lm,
            symbol=symbol[kept],
            node=np.full(len(source), ROOT),
            word=word,
            state=state,
            history=mix(beam.history[source], word),
        )

    def _ask_units(
        self,
        beam: Beam,
        floor: FloatArray,
        source: IntArray,
        symbol: IntArray,
        score: FloatArray,
        node: IntArray,
        word: IntArray,
    ) -> Candidates:
        kept = self.may_reach(score, floor[beam.clip[source]])
        source, symbol = source[kept], symbol[kept]
        lm, state = self.ask(beam.state[source], self.entries[symbol])
        return Candidates(
            source=source,
            score=score[kept] + self.weigh(lm),
            lm=lm,
            symbol=symbol,
            node=node[kept],
            word=word[kept],
            state=state,
            history=mix(beam.history[source], symbol),
        )
