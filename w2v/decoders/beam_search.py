"""Beam search over CTC outputs in numpy: all hypotheses of all clips of a batch advance at once, frame by frame.

Same rules and scores as flashlight-text's decoders. `lexicon_search.py` and `free_search.py` say by which new symbols a
hypothesis may be continued; here are blanks and held symbols, the choice of the best, the end of a clip and the
backtrace. The language model is asked once per frame, for all hypotheses together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from w2v.decoders.base import DecoderConfig
from w2v.decoders.hypotheses import (
    BASE,
    CLIP,
    HISTORY,
    HOLD,
    LM,
    NO_WORD,
    NUM_COLUMNS,
    ODD,
    SCORE,
    SOURCE,
    STATE,
    STEM,
    SYMBOL,
    WORD,
    Hypotheses,
    floats,
    hashes,
)  # fmt: skip
from w2v.lm.language_model import LanguageModel
from w2v.types import BLANK, BoolArray, FloatArray, IntArray

# Clips are searched together up to this number of hypotheses: enough for numpy, little memory for the backtrace.
MOST_HYPOTHESES = 4096
# Emissions are widened to float64 for this many numbers at once (8 MB).
NUMBERS_AT_ONCE = 1 << 20
# Below every score of a possible path, and above -inf, which stands for impossible ones.
LOWEST = -1e300
TABLE_SIZE = 1 << 16


@dataclass(frozen=True)
class FoundPath:
    """A path and its score.

    Attributes:
        score: total score.
        emission: sum of the log-probabilities of its frames.
        lm: the language model's log-probability, not weighed.
        symbols: symbol of each frame, with one silence before the first and one after the last: T + 2 of them.
        words: numbers of its words in the lexicon; empty where the search has none.
    """

    score: float
    emission: float
    lm: float
    symbols: list[int]
    words: list[int]


@dataclass(frozen=True)
class SearchOptions:
    """The numbers of a search, under the names of flashlight-text."""

    beam_size: int
    beam_size_token: int
    beam_threshold: float
    lm_weight: float
    word_score: float
    unk_score: float
    sil_score: float

    @classmethod
    def from_config(cls, config: DecoderConfig) -> SearchOptions:
        """Return the options that the flags name."""
        return cls(
            beam_size=config.beam,
            beam_size_token=int(config.beam_size_token),
            beam_threshold=config.beam_threshold,
            lm_weight=config.lm_weight,
            word_score=config.word_score,
            unk_score=config.unk_weight,
            sil_score=config.sil_weight,
        )


@dataclass(frozen=True)
class Frame:
    """Log-probabilities of a frame, with the score of silence. V + 1 numbers per clip: the last one is -inf.

    Attributes:
        emissions: (clips * (V + 1),) all.
        tried: the same, but -inf for all symbols besides the `beam_size_token` best.
        best: (clips,) largest of `tried` without the blank.
    """

    emissions: FloatArray
    tried: FloatArray
    best: FloatArray


@dataclass(frozen=True)
class Beam:
    """Hypotheses of all clips after one frame.

    Attributes:
        rows: the hypotheses.
        seconds: rows that have a better one of the same stem in the beam.
        num_clips: clips that are not over yet.
    """

    rows: Hypotheses
    seconds: IntArray
    num_clips: int


class BeamSearch:
    """Base class of the searches.

    Args:
        options: the numbers.
        model: the language model.
        silence: the symbol of silence.
        num_symbols: V.
    """

    def __init__(self, options: SearchOptions, model: LanguageModel, silence: int, num_symbols: int) -> None:
        self.options = options
        self.model = model
        self.silence = silence
        self.nothing = num_symbols  # its emission is -inf
        self._held = np.arange(num_symbols)
        self._held[BLANK] = self.nothing
        self._table = np.zeros(TABLE_SIZE, dtype=np.int64)

    def reweighed(self, options: SearchOptions) -> BeamSearch:
        """Return a search with other numbers over the same language model."""
        other = copy.copy(self)
        other.options = options
        return other

    def held_symbols(self, rows: Hypotheses, seconds: IntArray) -> IntArray:
        """Return (N,) the symbol by which a hypothesis repeats its last symbol; `nothing` where it ends in a blank."""
        held: IntArray = self._held.take(rows[:, SYMBOL])
        return held

    def waiting_emissions(self, frame: Frame) -> FloatArray:
        """Return the emissions that blanks and held symbols are scored by."""
        return frame.emissions

    def grow(self, beam: Beam, frame: Frame, floor: FloatArray) -> Hypotheses:
        """Return the continuations by new symbols; SOURCE is set, CLIP and BASE are those of the source.

        Args:
            beam: the hypotheses.
            frame: what the acoustic model says.
            floor: (clips,) score below which a continuation cannot be chosen and may be left out.
        """
        raise NotImplementedError

    def may_end(self, rows: Hypotheses) -> BoolArray:
        """Return (N,) whether a clip may end in a hypothesis."""
        raise NotImplementedError

    def find(self, log_probs: Tensor, lengths: Tensor, nbest: int) -> list[list[FoundPath]]:
        """Return the best paths of each clip, best first; none where no path has a score.

        Args:
            log_probs: (B, T, V) float32 log-probabilities on the CPU.
            lengths: (B,) true frames per clip, at least 1.
            nbest: most paths per clip.
        """
        found: list[list[FoundPath]] = [[] for _ in range(len(lengths))]
        sizes = lengths.numpy()
        # Clips of like length go together, longest first: those that are over are then the last rows of a beam.
        order = np.argsort(-sizes, kind="stable")
        together = max(MOST_HYPOTHESES // self.options.beam_size, 1)
        for first in range(0, len(order), together):
            clips = order[first : first + together]
            # (B, T, V) -> (T, B, V): what a frame needs lies together
            frames = np.ascontiguousarray(log_probs.numpy()[clips, : sizes[clips[0]]].transpose(1, 0, 2))
            for clip, paths in zip(clips.tolist(), self._find(frames, sizes[clips], nbest), strict=True):
                found[clip] = paths
            self.model.forget()
        return found

    def _find(self, log_probs: npt.NDArray[np.float32], lengths: IntArray, nbest: int) -> list[list[FoundPath]]:
        alive = np.count_nonzero(lengths > np.arange(len(log_probs) + 1)[:, None], axis=1).tolist()
        beam = self._start(len(lengths))
        steps: list[npt.NDArray[np.int32]] = []
        ended: list[Hypotheses] = []
        for t, frame in enumerate(self._frames(log_probs)):
            beam = self._advance(beam, frame)
            steps.append(beam.rows[:, SOURCE : WORD + 1].astype(np.int32))
            if alive[t + 1] < beam.num_clips:
                done = int(np.searchsorted(beam.rows[:, CLIP], alive[t + 1]))
                if done < len(beam.rows):
                    ended.append(self._end(beam.rows[done:], done, nbest))
                beam = Beam(beam.rows[:done], beam.seconds[beam.seconds < done], alive[t + 1])
        return _trace(steps, ended, log_probs, lengths, self.silence)

    def _frames(self, log_probs: npt.NDArray[np.float32]) -> Iterator[Frame]:
        num_frames, num_clips, num_symbols = log_probs.shape
        at_once = max(NUMBERS_AT_ONCE // (num_clips * (num_symbols + 1)), 1)
        for first in range(0, num_frames, at_once):
            block = log_probs[first : first + at_once]
            emissions = np.full((len(block), num_clips, num_symbols + 1), -np.inf)
            emissions[:, :, :-1] = block
            emissions[:, :, self.silence] += self.options.sil_score
            tried, number = emissions, self.options.beam_size_token
            if number < num_symbols:
                best = np.argpartition(-block, number - 1, axis=2)[:, :, :number]
                tried = np.full_like(emissions, -np.inf)
                np.put_along_axis(tried, best, np.take_along_axis(emissions, best, axis=2), axis=2)
            most = tried[:, :, BLANK + 1 :].max(axis=2)
            yield from map(Frame, emissions.reshape(len(block), -1), tried.reshape(len(block), -1), most)

    def _start(self, num_clips: int) -> Beam:
        rows = np.zeros((num_clips, NUM_COLUMNS), dtype=np.int64)
        clips = np.arange(num_clips)
        rows[:, SYMBOL] = rows[:, HOLD] = self.silence
        rows[:, WORD] = NO_WORD
        rows[:, STATE] = self.model.start()
        rows[:, HISTORY] = rows[:, STEM] = hashes(num_clips, seed=1)
        rows[:, CLIP] = clips
        rows[:, BASE] = clips * (self.nothing + 1)
        none = clips[:0]
        rows[:, HOLD] = self.held_symbols(rows, none)
        return Beam(rows, none, num_clips)

    def _advance(self, beam: Beam, frame: Frame) -> Beam:
        """Return the next beam.

        Blanks and held symbols can be ranked without the language model, and already bound what else can be chosen.
        """
        rows, emissions = beam.rows, self.waiting_emissions(frame)
        score, base = floats(rows)[:, SCORE], rows[:, BASE]
        blank = score + emissions.take(base)
        # Of hypotheses of equal stem the best one gives the best blank. So no two of these candidates are the same.
        blank[beam.seconds] = -np.inf
        held = score + emissions.take(base + rows[:, HOLD])
        floor = self._floor(beam, blank, held)
        reach = floor if beam.num_clips == 1 else floor.take(rows[:, CLIP])
        by_blank, by_hold = (blank >= reach).nonzero()[0], (held >= reach).nonzero()[0]
        source = np.concatenate([by_blank, by_hold])
        grown = self.grow(beam, frame, floor if self.options.lm_weight >= 0 else np.full_like(floor, LOWEST))
        pool = np.empty((len(source) + len(grown), NUM_COLUMNS), dtype=np.int64)
        waiting = pool[: len(source)]
        rows.take(source, axis=0, out=waiting, mode="clip")
        waiting[:, SOURCE] = source
        waiting[:, WORD] = NO_WORD
        waiting[: len(by_blank), SYMBOL] = BLANK
        waiting[len(by_blank) :, SYMBOL] = waiting[len(by_blank) :, HOLD]
        waiting_score = floats(waiting)[:, SCORE]
        waiting_score[: len(by_blank)] = blank[by_blank]
        waiting_score[len(by_blank) :] = held[by_hold]
        pool[len(source) :] = grown
        return self._choose(pool, beam.num_clips, distinct=not len(grown))

    def _floor(self, beam: Beam, blank: FloatArray, held: FloatArray) -> FloatArray:
        """Return (clips,) the score that a candidate must reach: the threshold below the best, or the last one kept."""
        size, clips = self.options.beam_size, beam.num_clips
        dense: FloatArray
        if clips == 1:
            # (1, 2 * size) at most: no scatter is needed
            dense = np.concatenate([blank, held])[None]
        else:
            clip = beam.rows[:, CLIP]
            starts = 2 * size * np.arange(clips) - clip.searchsorted(np.arange(clips))
            place = np.arange(len(clip)) + starts.take(clip)
            dense = np.full((clips, 2 * size), -np.inf)
            dense.put(place, blank)
            dense.put(place + size, held)
        floor: FloatArray = dense.max(axis=1, initial=LOWEST) - self.options.beam_threshold
        last = dense.shape[1] - size
        if last > 0:
            dense.partition(last, axis=1)
            floor = np.maximum(floor, dense[:, last])
        return np.maximum(floor, LOWEST)

    def ask(self, states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        """Return the language model's log-probabilities of words after states, and the states that follow."""
        return self.model.score(states, words) if len(states) else (np.empty(0), states)

    def weigh(self, lm: FloatArray) -> FloatArray:
        """Return log-probabilities times their weight; what is impossible stays so, whatever the weight."""
        if self.options.lm_weight > 0:
            return self.options.lm_weight * lm
        return np.where(lm == -np.inf, -np.inf, self.options.lm_weight * lm)

    def _choose(self, pool: Hypotheses, num_clips: int, *, distinct: bool) -> Beam:
        """Return the best candidates of each clip, best first.

        Of candidates that differ in nothing but their past the best is kept.
        """
        order = (-floats(pool)[:, SCORE]).argsort(kind="stable")
        if num_clips > 1:
            # 16-bit integers are sorted by radix, in linear time; the order within a clip stays.
            order = order[pool[:, CLIP].take(order).astype(np.int16).argsort(kind="stable")]
        rows = pool.take(order, axis=0)
        if not distinct:
            again = self._repeated(rows[:, STEM] + rows[:, SYMBOL] * ODD)
            rows = rows[~again] if len(rows) else rows
        score, size = floats(rows)[:, SCORE], self.options.beam_size
        if num_clips == 1:
            # Best first: what is kept are the first rows, and no copy is made.
            rows = rows[: np.count_nonzero(score[:size] >= score[:1] - self.options.beam_threshold)]
        else:
            clip = rows[:, CLIP]
            firsts = clip.searchsorted(np.arange(num_clips)).take(clip)
            kept = np.arange(len(rows)) - firsts < size
            kept &= score >= score.take(firsts) - self.options.beam_threshold
            rows = rows[kept]
        seconds = self._repeated(rows[:, STEM]).nonzero()[0]
        rows[:, HOLD] = self.held_symbols(rows, seconds)
        return Beam(rows, seconds, num_clips)

    def _repeated(self, key: IntArray) -> BoolArray:
        """Return (N,) whether an equal key stands further up.

        A table instead of a sort: the first of equal keys is written last into their slot. Different keys of one slot
        hide each other; these few are sorted.
        """
        place, slot = np.arange(len(key)), key & (TABLE_SIZE - 1)
        self._table[slot[::-1]] = place[::-1]
        first = self._table.take(slot)
        differs = key.take(first) != key
        again: BoolArray = first != place
        if differs.any():
            hidden = differs.nonzero()[0]
            ranked = hidden[key[hidden].argsort(kind="stable")]
            again[ranked[0]] = False
            again[ranked[1:]] = key[ranked[1:]] == key[ranked[:-1]]
        return again

    def _end(self, rows: Hypotheses, first_row: int, nbest: int) -> Hypotheses:
        """Return finished hypotheses, best first by clip; SOURCE is the row of the last beam that each comes from."""
        rows = rows.copy()
        rows[:, SOURCE] = np.arange(first_row, first_row + len(rows))
        clip, may_end = rows[:, CLIP], self.may_end(rows)
        rows = rows[may_end | ~np.isin(clip, clip[may_end])]
        lm = self.model.finish(rows[:, STATE])
        score = floats(rows)[:, SCORE]
        score += self.weigh(lm)
        floats(rows)[:, LM] += lm
        rows = rows[np.lexsort((-score, rows[:, CLIP]))]
        rows = rows[floats(rows)[:, SCORE] > -np.inf]
        # Paths that end in silence and in a blank are the same hypothesis.
        rows = rows[np.sort(np.unique(rows[:, STEM], return_index=True)[1])]
        score, clip = floats(rows)[:, SCORE], rows[:, CLIP]
        firsts = np.searchsorted(clip, clip)
        kept = np.arange(len(rows)) - firsts < nbest
        kept &= score >= score[firsts] - self.options.beam_threshold
        return rows[kept]


def _trace(
    steps: list[npt.NDArray[np.int32]],
    ended: list[Hypotheses],
    log_probs: npt.NDArray[np.float32],
    lengths: IntArray,
    silence: int,
) -> list[list[FoundPath]]:
    """Follow all finished hypotheses back to their first frames."""
    found: list[list[FoundPath]] = [[] for _ in lengths]
    if not ended:
        return found
    # Clips that end late come first, so that the paths under way are always the first rows.
    finished = np.concatenate(ended[::-1])
    clip, rows = finished[:, CLIP], finished[:, SOURCE]
    under_way = np.count_nonzero(lengths[clip] > np.arange(len(steps))[:, None], axis=1).tolist()
    path = np.empty((len(steps), 3, len(rows)), dtype=np.int32)  # source, symbol, word
    for t in reversed(range(len(steps))):
        number = under_way[t]
        said = steps[t].take(rows[:number], axis=0)
        path[t, :, :number] = said.T
        rows[:number] = said[:, 0]
    for row, number in enumerate(clip.tolist()):
        length = int(lengths[number])
        symbols, words = path[:length, 1, row], path[:length, 2, row]
        score, lm = floats(finished)[row, :2].tolist()
        emission = log_probs[np.arange(length), number, symbols].sum(dtype=np.float64)
        found[number].append(
            FoundPath(
                score=score,
                emission=float(emission),
                lm=lm,
                symbols=[silence, *symbols.tolist(), silence],
                words=words[words != NO_WORD].tolist(),
            )
        )
    return found
