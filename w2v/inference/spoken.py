"""What is said in each frame of a clip, as far as it is known: from a transcript, a CTC model, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from w2v.data.dictionary import Dictionary
from w2v.data.post_process import post_process as join_symbols
from w2v.errors import DataError
from w2v.functional.ctc_alignment import forced_align
from w2v.functional.ctc_path import best_paths
from w2v.inference.spelling import WILDCARD, Speller
from w2v.inference.word_times import WordTime, word_times
from w2v.types import Hypothesis

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
SILENCE = 30.0  # decibels below the loudest frame at which a frame of an isolated word counts as silent


@dataclass(frozen=True)
class Spoken:
    """What is said in a clip of T frames.

    Attributes:
        words: with their frames, in order; empty where nothing is known.
        path: (T,) symbol of each frame, blanks included; -1 where none is known.
        is_transcript: whether the words are those of a transcript, and not what the model hears.
    """

    words: Sequence[WordTime]
    path: Ints
    is_transcript: bool

    def word_of_each_frame(self) -> list[str | None]:
        """Return the word of each of the T frames, None between words."""
        found: list[str | None] = [None] * len(self.path)
        for word in self.words:
            found[word.start : word.end] = [word.word] * (word.end - word.start)
        return found


def spoken_in_emissions(
    log_probs: Floats, dictionary: Dictionary, post_process: str | None, transcript: Sequence[str] | None
) -> Spoken:
    """Align a transcript with a CTC model's log-probabilities; without one that fits, take the best path.

    Args:
        log_probs: (T, V) of one clip.
        dictionary: the symbols.
        post_process: how they become words.
        transcript: the words; None: unknown.
    """
    spelled = None if transcript is None else _labels(transcript, dictionary, post_process)
    if spelled is not None and transcript is not None:
        labels, owners = spelled
        try:
            aligned = forced_align(log_probs, labels)
        except DataError:
            pass  # too long for the clip: somebody else's transcript
        else:
            words = []
            for place, word in enumerate(transcript):
                mine = np.flatnonzero(owners == place)
                confidence = float(aligned.confidences[mine].mean())
                words.append(WordTime(word, int(aligned.starts[mine[0]]), int(aligned.ends[mine[-1]]), confidence))
            return Spoken(words, np.asarray(aligned.path, dtype=np.int64), is_transcript=True)
    emissions = torch.from_numpy(log_probs)[None]
    (path,) = best_paths(emissions, torch.tensor([len(log_probs)]))
    text = join_symbols(dictionary.string(path.tokens), post_process)
    heard = Hypothesis(path.tokens, text.split(), path.score, timesteps=path.timesteps)
    times = word_times(heard, emissions[0], dictionary, post_process)
    return Spoken(times, log_probs.argmax(axis=1).astype(np.int64), is_transcript=False)


def spoken_alone(levels: Floats, transcript: Sequence[str] | None) -> Spoken:
    """Return what is said in a clip without a CTC model: known only where the transcript is a single word.

    Args:
        levels: (T,) level of each frame, in decibels; its silent edges belong to no word.
        transcript: the words; None: unknown.
    """
    path = np.full(len(levels), -1, dtype=np.int64)
    if transcript is None or len(transcript) != 1 or not len(levels):
        return Spoken([], path, is_transcript=False)
    (loud,) = np.nonzero(levels >= levels.max() - SILENCE)
    word = WordTime(transcript[0], int(loud[0]), int(loud[-1]) + 1, float("nan"))
    return Spoken([word], path, is_transcript=True)


def _labels(words: Sequence[str], dictionary: Dictionary, post_process: str | None) -> tuple[Ints, Ints] | None:
    """Return the labels of words, and the number of the word that each label belongs to (-1: the mark between words).

    Returns:
        None where a word cannot be spelled; `w2v-align` gives such words a time all the same.
    """
    labels: list[int] = []
    owners: list[int] = []
    for line in Speller(dictionary, post_process).spell([" ".join(words)]).lines:
        for place, word in enumerate(line):
            labels += [symbol.label for symbol in word.symbols]
            owners += [place if symbol.text else -1 for symbol in word.symbols]
    is_whole = WILDCARD not in labels and set(owners) >= set(range(len(words)))
    return (np.array(labels, dtype=np.int64), np.array(owners)) if is_whole and labels else None


def frame_levels(samples: Floats, stride: int, field: int, count: int) -> Floats:
    """Return the level of each frame, (T,): the mean power of what it sees, in decibels.

    Args:
        samples: (S,).
        stride: samples from one frame to the next.
        field: samples that a frame sees.
        count: frames, T.
    """
    power = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    starts = np.minimum(np.arange(count) * stride, len(samples))
    ends = np.minimum(starts + field, len(samples))
    mean = (power[ends] - power[starts]) / np.maximum(ends - starts, 1)
    levels: Floats = (10 * np.log10(np.maximum(mean, 1e-10))).astype(np.float32)
    return levels
