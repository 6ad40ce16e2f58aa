"""Beam search without a lexicon: any sequence of units, weighed by a language model over units.

The rules are those of flashlight-text's LexiconFreeDecoder for CTC.
"""

from __future__ import annotations

import numpy as np

from w2v.decoders.beam_search import Beam, BeamSearch, Frame, SearchOptions
from w2v.decoders.hypotheses import (
    BASE,
    HISTORY,
    KEY,
    LM,
    NO_WORD,
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
from w2v.lm.language_model import LanguageModel
from w2v.types import BLANK, BoolArray, FloatArray, IntArray


class FreeSearch(BeamSearch):
    """Beam search over units.

    Args:
        options: the numbers.
        model: the language model.
        silence: the symbol of silence.
        entries: numbers in the language model of the symbols.
    """

    def __init__(self, options: SearchOptions, model: LanguageModel, silence: int, *, entries: IntArray) -> None:
        super().__init__(options, model, silence, len(entries))
        self.entries = entries
        self.said = hashes(len(entries), seed=2)

    def may_end(self, hypotheses: Hypotheses) -> BoolArray:
        return np.ones(hypotheses.shape[1], dtype=bool)

    def waiting_emissions(self, frame: Frame) -> FloatArray:
        return frame.tried

    def grow(self, beam: Beam, frame: Frame, floor: FloatArray) -> Hypotheses:
        score, base = floats(beam.hypotheses)[SCORE], beam.hypotheses[BASE]
        best, floor = beam.by_hypothesis(frame.best[: len(floor)]), beam.by_hypothesis(floor)
        hopeful = (score + best >= floor).nonzero()[0]
        tried = frame.tried.take(base.take(hopeful)[:, None] + np.arange(self.nothing))
        scores = score.take(hopeful)[:, None] + tried  # (N, V)
        scores[:, BLANK] = -np.inf
        scores[np.arange(len(hopeful)), beam.hypotheses[SYMBOL].take(hopeful)] = -np.inf
        place, symbol = (scores >= (floor if len(floor) == 1 else floor.take(hopeful)[:, None])).nonzero()
        source = hopeful.take(place)
        grown = np.zeros((NUM_FIELDS, len(source)), dtype=np.int64)
        beam.hypotheses[: BASE + 1].take(source, axis=1, out=grown[: BASE + 1], mode="clip")
        lm, grown[STATE] = self.ask(grown[STATE], self.entries.take(symbol))
        floats(grown)[SCORE] = scores[place, symbol] + self.weigh(lm)
        floats(grown)[LM] += lm
        grown[SOURCE] = source
        grown[SYMBOL] = symbol
        grown[WORD] = NO_WORD
        grown[HISTORY] = grown[STEM] = longer(grown[HISTORY], self.said.take(symbol))
        grown[KEY] = grown[STEM] ^ self.symbol_hash.take(symbol)
        return grown
