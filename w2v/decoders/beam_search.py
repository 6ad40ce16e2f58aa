"""Beam search over CTC outputs in numpy: all hypotheses of all clips of a batch advance at once, frame by frame.

Same rules and scores as flashlight-text's decoders, which `flashlight_search.py` calls where they are installed. How a
hypothesis may go on is `lexicon_search.py`'s and `free_search.py`'s; here are the choice of the best, the end of a clip
and the way back. The language model is asked once per frame, for all hypotheses together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from w2v.decoders.base import DecoderConfig
from w2v.lm.language_model import LanguageModel
from w2v.types import BLANK, FloatArray, IntArray


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


HashArray = npt.NDArray[np.uint64]
Rows = TypeVar("Rows", "Beam", "Candidates")
NO_WORD = -1
# Clips are searched together up to this number of hypotheses: enough for numpy, little memory for the way back.
MOST_HYPOTHESES = 4096


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
    """Log-probabilities of a frame, with the score of silence.

    Attributes:
        emissions: (clips, V) all.
        tried: (clips, V) those of the `beam_size_token` best symbols, else -inf.
    """

    emissions: FloatArray
    tried: FloatArray


@dataclass(frozen=True)
class Beam:
    """Hypotheses of all clips after one frame; those of a clip together, best first.

    Attributes:
        clip: (N,) which clip, rising.
        score: (N,) total score.
        emission: (N,) sum of the log-probabilities of the frames.
        lm: (N,) sum of the language model's, what is given in advance for words begun included.
        symbol: (N,) symbol of the last frame.
        node: (N,) node of the lexicon.
        state: (N,) state of the language model.
        history: (N,) hash of the clip and all words or units so far. Paths that differ in an early word are never
            merged, even where the language model has forgotten it; flashlight does the same.
    """

    clip: IntArray
    score: FloatArray
    emission: FloatArray
    lm: FloatArray
    symbol: IntArray
    node: IntArray
    state: IntArray
    history: HashArray

    def wait(self, source: IntArray, symbol: IntArray, emissions: FloatArray) -> Candidates:
        """Return continuations of the hypotheses `source` by a symbol that says nothing new."""
        return Candidates(
            source=source,
            score=self.score[source] + emissions[self.clip[source], symbol],
            lm=np.zeros(len(source)),
            symbol=symbol,
            node=self.node[source],
            word=np.full(len(source), NO_WORD),
            state=self.state[source],
            history=self.history[source],
        )


@dataclass(frozen=True)
class Candidates:
    """Continuations of hypotheses by one frame.

    Attributes:
        source: (M,) row of the hypothesis that is continued.
        score: (M,) total score.
        lm: (M,) what the language model adds, not weighed.
        symbol: (M,) symbol of the frame.
        node: (M,) node after it.
        word: (M,) word that is completed, -1 where there is none.
        state: (M,) state of the language model after it.
        history: (M,) hash of words after it.
    """

    source: IntArray
    score: FloatArray
    lm: FloatArray
    symbol: IntArray
    node: IntArray
    word: IntArray
    state: IntArray
    history: HashArray


@dataclass(frozen=True)
class Step:
    """What the way back needs of the hypotheses after a frame: (N,) each."""

    parent: npt.NDArray[np.int32]
    symbol: npt.NDArray[np.int32]
    word: npt.NDArray[np.int32]


class BeamSearch:
    """Base class of the searches.

    Args:
        options: the numbers.
        model: the language model.
        silence: the symbol of silence.
    """

    def __init__(self, options: SearchOptions, model: LanguageModel, silence: int) -> None:
        self.options = options
        self.model = model
        self.silence = silence

    def waiting(self, beam: Beam, frame: Frame) -> Candidates:
        """Return the continuations by a blank or by more of the same."""
        raise NotImplementedError

    def growing(self, beam: Beam, frame: Frame, floor: FloatArray) -> Candidates:
        """Return the continuations by new symbols.

        Args:
            beam: the hypotheses.
            frame: what the acoustic model says.
            floor: (clips,) score below which a continuation cannot be chosen and may be left out.
        """
        raise NotImplementedError

    def may_end(self, beam: Beam) -> npt.NDArray[np.bool_]:
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
        # Clips of like length go together, longest first: those that are done are then the last rows of a beam.
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

    def _find(self, frames: npt.NDArray[np.float32], lengths: IntArray, nbest: int) -> list[list[FoundPath]]:
        beam = self._start(len(lengths))
        steps: list[Step] = []
        ended: list[tuple[Beam, IntArray]] = []
        for t, log_probs in enumerate(frames):
            num_clips = np.count_nonzero(lengths > t)
            chosen = self._continue(beam, self._frame(log_probs[:num_clips]))
            step, beam = _advance(beam, chosen, log_probs)
            steps.append(step)
            done = np.searchsorted(beam.clip, np.count_nonzero(lengths > t + 1))
            if done < len(beam.clip):
                rows = np.arange(done, len(beam.clip))
                ended.append(self._end(take(beam, rows), rows, nbest))
                beam = take(beam, np.arange(done))
        return _trace(steps, ended, lengths, self.silence)

    def _start(self, num_clips: int) -> Beam:
        clips = np.arange(num_clips)
        zeros = np.zeros(num_clips, dtype=np.int64)
        return Beam(
            clip=clips,
            score=np.zeros(num_clips),
            emission=np.zeros(num_clips),
            lm=np.zeros(num_clips),
            symbol=zeros + self.silence,
            node=zeros,
            state=zeros + self.model.start(),
            history=mix(np.zeros(num_clips, dtype=np.uint64), clips),
        )

    def _frame(self, log_probs: npt.NDArray[np.float32]) -> Frame:
        emissions = log_probs.astype(np.float64)
        emissions[:, self.silence] += self.options.sil_score
        num_tried = self.options.beam_size_token
        if num_tried >= emissions.shape[1]:
            return Frame(emissions, emissions)
        best = np.argpartition(-log_probs, num_tried - 1, axis=1)[:, :num_tried]
        tried = np.full_like(emissions, -np.inf)
        np.put_along_axis(tried, best, np.take_along_axis(emissions, best, axis=1), axis=1)
        return Frame(emissions, tried)

    def _continue(self, beam: Beam, frame: Frame) -> Candidates:
        """Return the next beam.

        What goes on as it is can be ranked without the language model, and already bounds what else can be chosen.
        """
        num_clips = len(frame.emissions)
        waiting = self._choose(beam, self.waiting(beam, frame), num_clips)
        clip = beam.clip[waiting.source]
        starts = np.searchsorted(clip, np.arange(num_clips))
        ends = np.append(starts[1:], len(clip))
        floor = np.full(num_clips, -np.inf)
        some = np.flatnonzero(ends > starts)
        floor[some] = waiting.score[starts[some]] - self.options.beam_threshold
        full = np.flatnonzero(ends - starts == self.options.beam_size)
        floor[full] = np.maximum(floor[full], waiting.score[ends[full] - 1])
        return self._choose(beam, join([waiting, self.growing(beam, frame, floor)]), num_clips)

    def ask(self, states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        """Return the language model's log-probabilities of words after states, and the states that follow."""
        return self.model.score(states, words) if len(states) else (np.empty(0), states)

    def weigh(self, lm: FloatArray) -> FloatArray:
        """Return log-probabilities times their weight; what is impossible stays so, whatever the weight."""
        return np.where(lm == -np.inf, -np.inf, self.options.lm_weight * lm)

    def hopeful(self, beam: Beam, frame: Frame, floor: FloatArray, score: FloatArray) -> IntArray:
        """Return the hypotheses that a new symbol may keep in the beam: few where a frame is clearly a blank.

        Args:
            beam: the hypotheses.
            frame: what the acoustic model says.
            floor: (clips,) score to reach.
            score: (N,) scores without the new symbol, at best.
        """
        best = frame.tried[:, BLANK + 1 :].max(axis=1)
        return np.flatnonzero(self.may_reach(score + best[beam.clip], floor[beam.clip]))

    def may_reach(self, score: FloatArray, floor: FloatArray) -> npt.NDArray[np.bool_]:
        """Return where a score can reach a floor once the language model, never positive, has been asked."""
        return (score >= floor) & (score > -np.inf) if self.options.lm_weight >= 0 else score > -np.inf

    def _choose(self, beam: Beam, candidates: Candidates, num_clips: int) -> Candidates:
        """Return the best candidates of each clip, best first.

        Of candidates that differ in nothing but their past the best is kept.
        """
        key = mix(candidates.history, candidates.node * 0x10001 + candidates.symbol)
        rows = _best_of_equal(key, candidates.score)
        rows = rows[np.argsort(-candidates.score[rows], kind="stable")]
        # 16-bit integers are sorted by radix, in linear time; the order within a clip stays.
        clip = beam.clip[candidates.source]
        rows = rows[np.argsort(clip[rows].astype(np.int16), kind="stable")]
        clip, score = clip[rows], candidates.score[rows]
        firsts = np.searchsorted(clip, np.arange(num_clips))[clip]
        kept = np.arange(len(rows)) - firsts < self.options.beam_size
        kept &= score >= score[firsts] - self.options.beam_threshold
        return take(candidates, rows[kept])

    def _end(self, beam: Beam, rows: IntArray, nbest: int) -> tuple[Beam, IntArray]:
        """Return finished hypotheses, best first by clip, and the row of the last beam that each comes from."""
        may_end = self.may_end(beam)
        open_rows = np.flatnonzero(may_end | ~np.isin(beam.clip, beam.clip[may_end]))
        beam, rows = take(beam, open_rows), rows[open_rows]
        lm = self.model.finish(beam.state)
        score = beam.score + self.weigh(lm)
        finished = Beam(**{**vars(beam), "score": score, "lm": beam.lm + lm})
        order = np.lexsort((-score, beam.clip))
        order = order[score[order] > -np.inf]
        # Paths that end in silence and in a blank are the same reading.
        key = mix(beam.history, beam.node)[order]
        order = order[np.sort(np.unique(key, return_index=True)[1])]
        firsts = np.searchsorted(beam.clip[order], beam.clip[order])
        kept = np.arange(len(order)) - firsts < nbest
        kept &= score[order] >= score[order[firsts]] - self.options.beam_threshold
        order = order[kept]
        return take(finished, order), rows[order]


def take(rows: Rows, index: IntArray) -> Rows:
    """Return the rows of a beam or of candidates that `index` names."""
    return type(rows)(**{field.name: getattr(rows, field.name)[index] for field in fields(rows)})


def join(parts: list[Candidates]) -> Candidates:
    """Return the rows of several groups of candidates, one group after the other."""
    return Candidates(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Candidates)}
    )


def mix(history: HashArray, value: IntArray) -> HashArray:
    """Return a hash of 64 bits of a hash and an integer."""
    mixed: HashArray = (history ^ (value + 1).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _best_of_equal(key: HashArray, score: FloatArray) -> IntArray:
    """Return the row of the largest score among rows of equal keys; rows of score -inf are left out."""
    order = np.argsort(key)
    order = order[score[order] > -np.inf]
    if not len(order):
        return order
    key, ranked = key[order], score[order]
    is_first = np.concatenate([[True], key[1:] != key[:-1]])
    group = np.cumsum(is_first) - 1
    winners = np.flatnonzero(ranked == np.maximum.reduceat(ranked, np.flatnonzero(is_first))[group])
    group = group[winners]
    chosen: IntArray = order[winners[np.concatenate([[True], group[1:] != group[:-1]])]]
    return chosen


def _advance(beam: Beam, chosen: Candidates, log_probs: npt.NDArray[np.float32]) -> tuple[Step, Beam]:
    source = chosen.source
    clip = beam.clip[source]
    step = Step(source.astype(np.int32), chosen.symbol.astype(np.int32), chosen.word.astype(np.int32))
    return step, Beam(
        clip=clip,
        score=chosen.score,
        emission=beam.emission[source] + log_probs[clip, chosen.symbol],
        lm=beam.lm[source] + chosen.lm,
        symbol=chosen.symbol,
        node=chosen.node,
        state=chosen.state,
        history=chosen.history,
    )


def _trace(
    steps: list[Step], ended: list[tuple[Beam, IntArray]], lengths: IntArray, silence: int
) -> list[list[FoundPath]]:
    """Follow all finished hypotheses back to their first frames."""
    found: list[list[FoundPath]] = [[] for _ in lengths]
    if not ended:
        return found
    # Clips that end late come first, so that the paths under way are always the first rows.
    beams, rows = [beam for beam, _ in reversed(ended)], np.concatenate([rows for _, rows in reversed(ended)])
    clip = np.concatenate([beam.clip for beam in beams])
    symbols = np.full((len(rows), len(steps) + 2), silence, dtype=np.int32)
    words = np.full((len(rows), len(steps)), NO_WORD, dtype=np.int32)
    for t in reversed(range(len(steps))):
        under_way = np.count_nonzero(lengths[clip] > t)
        here = rows[:under_way]
        symbols[:under_way, t + 1] = steps[t].symbol[here]
        words[:under_way, t] = steps[t].word[here]
        rows[:under_way] = steps[t].parent[here]
    score, emission, lm = (
        np.concatenate([getattr(beam, name) for beam in beams]).tolist() for name in ("score", "emission", "lm")
    )
    for row, number in enumerate(clip.tolist()):
        length = int(lengths[number])
        said = words[row, :length]
        found[number].append(
            FoundPath(
                score=score[row],
                emission=emission[row],
                lm=lm[row],
                symbols=symbols[row, : length + 2].tolist(),
                words=said[said != NO_WORD].tolist(),
            )
        )
    return found
