"""Beam search bound to the words of a lexicon; the language model is over words, or over units.

The rules are those of flashlight-text's LexiconDecoder for CTC, its treatment of repeated symbols included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from w2v.decoders.beam_search import NO_WORD, Beam, BeamSearch, Candidates, Frame, SearchOptions, join, mix
from w2v.decoders.lexicon_tree import ROOT, LexiconTree, expand
from w2v.lm.language_model import LanguageModel
from w2v.types import BLANK, FloatArray, IntArray


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
        parts = [self._begun(beam, frame, floor), self._completed(beam, frame, floor)]
        if self.options.unk_score > -np.inf:
            parts.append(self._unknown(beam, frame, floor))
        return join(parts)

    def _begun(self, beam: Beam, frame: Frame, floor: FloatArray) -> Candidates:
        """Return the steps inside words."""
        rows = self.hopeful(beam, frame, floor, beam.score)
        source, branch = expand(self.tree.branch_start, beam.node, rows)
        symbol, clip = self.tree.branch_symbol[branch], beam.clip[source]
        score = beam.score[source] + frame.tried[clip, symbol]
        lm = self.tree.branch_gain[branch]
        if not self.is_unit_lm:
            score += self.options.lm_weight * lm
        kept = np.flatnonzero(self.may_reach(score, floor[clip]) & (symbol != beam.symbol[source]))
        source, symbol, node = source[kept], symbol[kept], self.tree.branch_node[branch[kept]]
        no_word = np.full(len(source), NO_WORD)
        if self.is_unit_lm:
            return self._ask_units(beam, source, score[kept], symbol, node, no_word)
        return Candidates(
            source=source,
            score=score[kept],
            lm=lm[kept],
            symbol=symbol,
            node=node,
            word=no_word,
            state=beam.state[source],
            history=beam.history[source],
        )

    def _completed(self, beam: Beam, frame: Frame, floor: FloatArray) -> Candidates:
        """Return the steps to the ends of words."""
        bonus = self.options.word_score
        rows = self.hopeful(beam, frame, floor, self._without_advance(beam) + bonus)
        source, ending = expand(self.tree.ending_start, beam.node, rows)
        symbol = self.tree.ending_symbol[ending]
        # A word of one symbol that is held for several frames is said once.
        anew = (beam.node[source] != ROOT) | (beam.symbol[source] != symbol)
        return self._end_words(
            beam, frame, floor, source[anew], symbol[anew], self.tree.ending_word[ending[anew]], bonus
        )

    def _unknown(self, beam: Beam, frame: Frame, floor: FloatArray) -> Candidates:
        """Return the ends of unknown words: wherever words of the lexicon only begin."""
        bonus = self.options.unk_score
        rows = self.hopeful(beam, frame, floor, self._without_advance(beam) + bonus)
        source, branch = expand(self.tree.branch_start, beam.node, rows)
        nameless = ~self.tree.is_word[self.tree.branch_node[branch]]
        source, symbol = source[nameless], self.tree.branch_symbol[branch[nameless]]
        return self._end_words(beam, frame, floor, source, symbol, np.full(len(source), self.unknown), bonus)

    def _without_advance(self, beam: Beam) -> FloatArray:
        """Return scores without what was given in advance for words begun."""
        if self.is_unit_lm:
            return beam.score
        without: FloatArray = beam.score - self.options.lm_weight * self.tree.best[beam.node]
        return without

    def _end_words(
        self,
        beam: Beam,
        frame: Frame,
        floor: FloatArray,
        source: IntArray,
        symbol: IntArray,
        word: IntArray,
        bonus: float,
    ) -> Candidates:
        clip = beam.clip[source]
        emission = frame.tried[clip, symbol] + bonus
        kept = self.may_reach(self._without_advance(beam)[source] + emission, floor[clip])
        source, symbol, word = source[kept], symbol[kept], word[kept]
        score, root = beam.score[source] + emission[kept], np.full(len(source), ROOT)
        if self.is_unit_lm:
            return self._ask_units(beam, source, score, symbol, root, word)
        log_probs, state = self.ask(beam.state[source], self.entries[word])
        lm = log_probs - self.tree.best[beam.node[source]]
        return Candidates(
            source=source,
            score=score + self.weigh(lm),
            lm=lm,
            symbol=symbol,
            node=root,
            word=word,
            state=state,
            history=mix(beam.history[source], word),
        )

    def _ask_units(
        self, beam: Beam, source: IntArray, score: FloatArray, symbol: IntArray, node: IntArray, word: IntArray
    ) -> Candidates:
        lm, state = self.ask(beam.state[source], self.entries[symbol])
        return Candidates(
            source=source,
            score=score + self.weigh(lm),
            lm=lm,
            symbol=symbol,
            node=node,
            word=word,
            state=state,
            history=mix(beam.history[source], symbol),
        )
