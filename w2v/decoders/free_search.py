"""Beam search without a lexicon: any sequence of units, weighed by a language model over units.

The rules are those of flashlight-text's LexiconFreeDecoder for CTC.
"""

from __future__ import annotations

import numpy as np

from w2v.decoders.beam_search import Beam, BeamSearch, Frame, SearchOptions
from w2v.decoders.hypotheses import (
    CLIP,
    HISTORY,
    LM,
    SCORE,
    SOURCE,
    STATE,
    STEM,
    SYMBOL,
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
        self._said = hashes(len(entries), seed=2)

    def may_end(self, rows: Hypotheses) -> BoolArray:
        return np.ones(len(rows), dtype=bool)

    def waiting_emissions(self, frame: Frame) -> FloatArray:
        return frame.tried

    def grow(self, beam: Beam, frame: Frame, floor: FloatArray) -> Hypotheses:
        rows = beam.rows
        floor = floor[:1] if beam.num_clips == 1 else floor.take(rows[:, CLIP])
        clip, score = rows[:, CLIP], floats(rows)[:, SCORE]
        chosen = (score + frame.best.take(clip) >= floor).nonzero()[0]
        before = rows.take(chosen, axis=0)
        tried = frame.tried.reshape(-1, self.nothing + 1)
        scores = floats(before)[:, SCORE, None] + tried[before[:, CLIP]]  # (N, V + 1)
        scores[:, BLANK] = -np.inf
        scores[np.arange(len(before)), before[:, SYMBOL]] = -np.inf
        row, symbol = (scores >= (floor if len(floor) == 1 else floor.take(chosen)[:, None])).nonzero()
        grown = before.take(row, axis=0)
        lm, grown[:, STATE] = self.ask(grown[:, STATE], self.entries.take(symbol))
        floats(grown)[:, SCORE] = scores[row, symbol] + self.weigh(lm)
        floats(grown)[:, LM] += lm
        grown[:, SOURCE] = chosen.take(row)
        grown[:, SYMBOL] = symbol
        grown[:, HISTORY] = grown[:, STEM] = longer(grown[:, HISTORY], self._said.take(symbol))
        return grown
