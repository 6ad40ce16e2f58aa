"""Beam search without a lexicon: any sequence of units, weighed by a language model over units.

The rules are those of flashlight-text's LexiconFreeDecoder for CTC.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from w2v.decoders.beam_search import NO_WORD, Beam, BeamSearch, Candidates, Frame, SearchOptions, mix
from w2v.lm.language_model import LanguageModel
from w2v.types import BLANK, FloatArray, IntArray


class FreeSearch(BeamSearch):
    """Beam search over units.

    Args:
        options: the numbers.
        model: the language model.
        silence: the symbol of silence.
        entries: numbers in the language model of the symbols.
    """

    def __init__(self, options: SearchOptions, model: LanguageModel, silence: int, *, entries: IntArray) -> None:
        super().__init__(options, model, silence)
        self.entries = entries

    def may_end(self, beam: Beam) -> npt.NDArray[np.bool_]:
        return np.ones(len(beam.clip), dtype=bool)

    def waiting(self, beam: Beam, frame: Frame) -> Candidates:
        everyone = np.arange(len(beam.clip))
        held = np.flatnonzero(beam.symbol != BLANK)
        source = np.concatenate([everyone, held])
        symbol = np.concatenate([np.full(len(everyone), BLANK), beam.symbol[held]])
        return beam.wait(source, symbol, frame.tried)

    def growing(self, beam: Beam, frame: Frame, floor: FloatArray) -> Candidates:
        rows = self.hopeful(beam, frame, floor, beam.score)
        score = beam.score[rows, None] + frame.tried[beam.clip[rows]]
        score[:, BLANK] = -np.inf
        score[np.arange(len(rows)), beam.symbol[rows]] = -np.inf
        row, symbol = np.nonzero(self.may_reach(score, floor[beam.clip[rows], None]))
        source = rows[row]
        lm, state = self.ask(beam.state[source], self.entries[symbol])
        return Candidates(
            source=source,
            score=score[row, symbol] + self.weigh(lm),
            lm=lm,
            symbol=symbol,
            node=np.zeros(len(source), dtype=np.int64),
            word=np.full(len(source), NO_WORD),
            state=state,
            history=mix(beam.history[source], symbol),
        )
