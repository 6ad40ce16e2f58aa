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
        hypotheses: (NUM_FIELDS, N).
        held: (N,) symbol by which each repeats its last one.
        places: (2, N) places in the next frame's emissions of its blank and of the symbol that it holds.
        ranks: (N,) clip * 2 * beam_size + place within the clip.
        num_clips: clips that are not over yet.
    """

    hypotheses: Hypotheses
    held: IntArray
    places: IntArray
    ranks: IntArray
    num_clips: int

    def first(self, number: int, num_clips: int) -> Beam:
        """Return the hypotheses of the first clips."""
        return Beam(
            self.hypotheses[:, :number], self.held[:number], self.places[:, :number], self.ranks[:number], num_clips
        )

    def by_hypothesis(self, values: FloatArray) -> FloatArray:
        """Return numbers of clips, one for each hypothesis; a single clip's number serves all of them."""
        return values if self.num_clips == 1 else values.take(self.hypotheses[CLIP])


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
        self.symbol_hash = hashes(num_symbols + 1, seed=4)
        self.symbol_hash[BLANK] = 0
        self._table = np.zeros(TABLE_SIZE, dtype=np.int64)

    def reweighed(self, options: SearchOptions) -> BeamSearch:
        """Return a search with other numbers over the same language model."""
        other = copy.copy(self)
        other.options = options
        return other

    def held_symbols(self, hypotheses: Hypotheses, seconds: IntArray) -> IntArray:
        """Return (N,) the symbol by which a hypothesis repeats its last symbol; `nothing` where it ends in a blank.

        Args:
            hypotheses: (NUM_FIELDS, N).
            seconds: hypotheses that have a better one of the same stem in the beam.
        """
        held: IntArray = self._held.take(hypotheses[SYMBOL])
        return held

    def waiting_emissions(self, frame: Frame) -> FloatArray:
        """Return the emissions that blanks and held symbols are scored by."""
        return frame.emissions

    def grow(self, beam: Beam, frame: Frame, floor: FloatArray) -> Hypotheses:
        """Return the continuations by new symbols, all their fields set.

        Args:
            beam: the hypotheses.
            frame: what the acoustic model says.
            floor: (clips,) score below which a continuation cannot be chosen and may be left out.
        """
        raise NotImplementedError

    def may_end(self, hypotheses: Hypotheses) -> BoolArray:
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
            steps.append(beam.hypotheses[SOURCE : WORD + 1].astype(np.int32))
            if alive[t + 1] < beam.num_clips:
                number = int(np.searchsorted(beam.hypotheses[CLIP], alive[t + 1]))
                ended.append(self._end(beam.hypotheses[:, number:], number, nbest))
                beam = beam.first(number, alive[t + 1])
        return trace(steps, ended, log_probs, lengths, self.silence)

    def _frames(self, log_probs: npt.NDArray[np.float32]) -> Iterator[Frame]:
        for emissions, tried, best in self._blocks(log_probs):
            yield from map(Frame, emissions.reshape(len(best), -1), tried.reshape(len(best), -1), best)

    def _blocks(self, log_probs: npt.NDArray[np.float32]) -> Iterator[tuple[FloatArray, FloatArray, FloatArray]]:
        """Yield the fields of `Frame`, (T, clips, V + 1) twice and (T, clips), of some frames at a time."""
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
            yield emissions, tried, tried[:, :, BLANK + 1 :].max(axis=2)

    def _start(self, num_clips: int) -> Beam:
        hypotheses = np.zeros((NUM_FIELDS, num_clips), dtype=np.int64)
        hypotheses[SYMBOL] = self.silence
        hypotheses[STATE] = self.model.start()
        hypotheses[HISTORY] = hypotheses[STEM] = hashes(num_clips, seed=1)
        hypotheses[CLIP] = np.arange(num_clips)
        hypotheses[BASE] = hypotheses[CLIP] * (self.nothing + 1)
        return self._beam(hypotheses, 2 * self.options.beam_size * hypotheses[CLIP], num_clips)

    def _beam(self, hypotheses: Hypotheses, ranks: IntArray, num_clips: int) -> Beam:
        """Return a beam: here it is decided what its hypotheses may wait by.

        Of hypotheses of equal stem the best one alone waits by a blank: so no two of these candidates are the same.
        """
        seconds = self._repeated(hypotheses[STEM]).nonzero()[0]
        held = self.held_symbols(hypotheses, seconds)
        places = np.empty((2, len(held)), dtype=np.int64)
        places[:] = hypotheses[BASE]
        places[0][seconds] += self.nothing
        places[1] += held
        return Beam(hypotheses, held, places, ranks, num_clips)

    def _advance(self, beam: Beam, frame: Frame) -> Beam:
        """Return the next beam.

        Blanks and held symbols can be ranked without the language model, and already bound what else can be chosen.
        """
        before = beam.hypotheses
        number = before.shape[1]
        if not number:
            return beam
        waiting = self.waiting_emissions(frame).take(beam.places)  # (2, N)
        waiting += floats(before)[SCORE]
        floor = self._floor(beam, waiting)
        grown = self.grow(beam, frame, floor if self.options.lm_weight >= 0 else np.full_like(floor, LOWEST))
        # Candidates: blanks, held symbols, new symbols, each in the order of the beam.
        pool = np.empty((NUM_FIELDS, 2 * number + grown.shape[1]), dtype=np.int64)
        blank, held = pool[:, :number], pool[:, number : 2 * number]
        blank[:] = held[:] = before
        pool[:, 2 * number :] = grown
        floats(blank)[SCORE], floats(held)[SCORE] = waiting
        blank[SOURCE] = held[SOURCE] = np.arange(number)
        pool[WORD, : 2 * number] = NO_WORD
        blank[SYMBOL], blank[KEY] = BLANK, before[STEM]
        held[SYMBOL], held[KEY] = beam.held, before[STEM] ^ self.symbol_hash.take(beam.held)
        return self._choose(pool, beam, floor)

    def _floor(self, beam: Beam, waiting: FloatArray) -> FloatArray:
        """Return (clips,) the score that a candidate must reach: the threshold below the best, or the last one kept."""
        size = self.options.beam_size
        if beam.num_clips == 1:
            # (1, 2 * N): no scatter is needed
            dense = waiting.reshape(1, -1).copy()
        else:
            dense = np.full((beam.num_clips, 2 * size), -np.inf)
            dense.put(beam.ranks, waiting[0])
            dense.put(beam.ranks + size, waiting[1])
        dense.sort(axis=1)  # of so few numbers faster than a partition
        floor: FloatArray = np.maximum(dense[:, -1] - self.options.beam_threshold, LOWEST)
        last = dense.shape[1] - size
        if last > 0:
            np.maximum(floor, dense[:, last], out=floor)
        return floor

    def ask(self, states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        """Return the language model's log-probabilities of words after states, and the states that follow."""
        return self.model.score(states, words) if len(states) else (np.empty(0), states)

    def weigh(self, lm: FloatArray) -> FloatArray:
        """Return log-probabilities times their weight; what is impossible stays so, whatever the weight."""
        if self.options.lm_weight > 0:
            return self.options.lm_weight * lm
        return np.where(lm == -np.inf, -np.inf, self.options.lm_weight * lm)

    def _choose(self, pool: Hypotheses, beam: Beam, floor: FloatArray) -> Beam:
        """Return the best candidates of each clip, best first.

        Of candidates that differ in nothing but their past the best is kept.
        """
        score, size, threshold = floats(pool)[SCORE], self.options.beam_size, self.options.beam_threshold
        if beam.num_clips == 1:
            order = _best_first(score)
            order = order.compress(~self._repeated(pool[KEY].take(order)))[:size]
            # What is kept are the first of them.
            score = score.take(order)
            order = order[: np.count_nonzero(score >= max(score[0] - threshold, LOWEST))]
            return self._beam(pool.take(order, axis=1), order, 1)
        near = (score >= floor.take(pool[CLIP])).nonzero()[0]
        clip, clips = pool[CLIP].take(near), np.arange(beam.num_clips)
        # Scores of clips are far apart. Measured from the best of the frame before, all of them are small and exact.
        best = np.zeros(beam.num_clips)
        best[beam.hypotheses[CLIP][::-1]] = floats(beam.hypotheses)[SCORE][::-1]
        order = _best_first(score.take(near) - best.take(clip))
        # 16-bit integers are sorted by radix, in linear time; the order within a clip stays.
        order = near.take(order.take(clip.take(order).astype(np.int16).argsort(kind="stable")))
        order = order.compress(~self._repeated(pool[KEY].take(order)))
        score, clip = score.take(order), pool[CLIP].take(order)
        firsts = clip.searchsorted(clips).take(clip)
        rank = np.arange(len(order)) - firsts
        kept = ((rank < size) & (score >= score.take(firsts) - threshold)).nonzero()[0]
        ranks = (clip * (2 * size) + rank).take(kept)
        return self._beam(pool.take(order.take(kept), axis=1), ranks, beam.num_clips)

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

    def _end(self, hypotheses: Hypotheses, first: int, nbest: int) -> Hypotheses:
        """Return finished hypotheses, best first by clip; SOURCE is the place in the last beam that each comes from."""
        ended: Hypotheses = hypotheses.copy()
        ended[SOURCE] = np.arange(first, first + ended.shape[1])
        may_end = self.may_end(ended)
        ended = ended[:, may_end | ~np.isin(ended[CLIP], ended[CLIP, may_end])]
        lm = self.model.finish(ended[STATE])
        floats(ended)[SCORE] += self.weigh(lm)
        floats(ended)[LM] += lm
        ended = ended[:, np.lexsort((-floats(ended)[SCORE], ended[CLIP]))]
        ended = ended[:, floats(ended)[SCORE] > -np.inf]
        # Paths that end in silence and in a blank are the same hypothesis.
        ended = ended[:, np.sort(np.unique(ended[STEM], return_index=True)[1])]
        score, clip = floats(ended)[SCORE], ended[CLIP]
        firsts = np.searchsorted(clip, clip)
        kept = np.arange(len(clip)) - firsts < nbest
        kept &= score >= score[firsts] - self.options.beam_threshold
        return ended[:, kept]


def _best_first(score: FloatArray) -> IntArray:
    """Return the order of falling scores, by one sort of integers: numpy is several times faster at it than at argsort.

    Of negative floats the bits, read as an integer, rise as the number falls. The last bits give way to the place:
    scores that differ by some 1e-11 count as equal, and keep their order.
    """
    if not len(score):
        return np.empty(0, dtype=np.int64)
    highest = max(float(score[score.argmax()]), LOWEST)
    mask = (1 << len(score).bit_length()) - 1
    places: IntArray = (score - (highest + 1.0)).view(np.int64)
    places &= ~mask
    places |= np.arange(len(score))
    places.sort()
    places &= mask
    return places


def trace(
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
    finished = np.concatenate(ended[::-1], axis=1)
    clip, places = finished[CLIP], finished[SOURCE]
    under_way = np.count_nonzero(lengths[clip] > np.arange(len(steps))[:, None], axis=1).tolist()
    path = np.empty((len(steps), 3, len(places)), dtype=np.int32)  # source, symbol, word
    for t in reversed(range(len(steps))):
        number = under_way[t]
        path[t, :, :number] = steps[t].take(places[:number], axis=1)
        places[:number] = path[t, 0, :number]
    for i, number in enumerate(clip.tolist()):
        length = int(lengths[number])
        symbols, words = path[:length, 1, i], path[:length, 2, i]
        score, lm = floats(finished)[:2, i].tolist()
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
