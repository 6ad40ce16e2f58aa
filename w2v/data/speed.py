"""Clips played faster or slower: pitch and tempo change together, as on a tape, so each clip gets new voices.

Speeds are drawn while the lengths of a batch are still open: a clip of S samples has round(S / speed) of them at that
speed, and crops, padding and `--max-tokens` count those. Not in the original; Ko et al., "Audio Augmentation for
Speech Recognition" (Interspeech 2015), take 0.9, 1 and 1.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.array_types import IntArray
from w2v.config import float_pair
from w2v.data.audio import Samples
from w2v.rng import numpy_generator

SLOWEST, FASTEST = 0.5, 2.0


@dataclass(frozen=True)
class Speeds:
    """What speeds the clips of a data set may have.

    A clip is not made slower than fits into `longest`, nor faster than leaves `shortest`: none is lost for its speed,
    and labels that fitted into the frames of a clip still do.

    Attributes:
        low: lowest speed, at most 1.
        high: highest speed, at least 1.
        shortest: (N,) samples that each clip must keep.
        longest: most samples that a clip may have; None: any number.
    """

    low: float
    high: float
    shortest: IntArray
    longest: int | None = None

    def draw(self, indices: IntArray, sizes: Sequence[int], seed: int) -> list[float]:
        """Return a speed for each clip of a batch, uniform between its limits.

        Args:
            indices: (B,) numbers of the clips.
            sizes: samples of the clips.
            seed: the batch's.
        """
        low, high = self._limits(indices, np.asarray(sizes))
        speeds: list[float] = (low + numpy_generator(seed, "speed").random(len(indices)) * (high - low)).tolist()
        return speeds

    def most_samples(self, sizes: IntArray) -> IntArray:
        """Return (N,) samples that each clip has at most, where it is played as slowly as it may be."""
        low, _ = self._limits(np.arange(len(sizes)), sizes)
        most: IntArray = np.rint(sizes / low).astype(np.int64)
        return most

    def _limits(self, indices: IntArray, sizes: IntArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        # A clip beyond a limit already stays as it is.
        low = np.full(len(sizes), self.low)
        if self.longest is not None:
            low = np.maximum(low, np.minimum(sizes / self.longest, 1))
        high = np.minimum(self.high, np.maximum(sizes / np.maximum(self.shortest[indices], 1), 1))
        return low, high


def length_at(size: int, speed: float) -> int:
    """Return the samples that a clip of `size` samples has at a speed, at least one."""
    return size if speed == 1 else max(round(size / speed), 1)


def stretch_behind(start: int, width: int, size: int, speed: float) -> tuple[int, int]:
    """Return first and last (exclusive) sample of a clip from which a window of it at a speed is made.

    Args:
        start: first sample of the window, counted at that speed.
        width: samples of the window.
        size: samples of the clip as it is.
        speed: how fast it is played.
    """
    first = min(int(start * speed), size - 1)
    return first, min(size, first + math.ceil(width * speed))


def played(samples: Samples, speed: float, length: int) -> Samples:
    """Return samples (S,) at a speed, brought to (length,): a sample too many is cut, one too few is zero.

    What would lie above half of the sample rate is filtered out, as in any change of rate.
    """
    import soxr

    found = soxr.resample(samples, speed, 1.0, quality="HQ")[:length]
    out: Samples = np.zeros(length, dtype=np.float32)
    out[: len(found)] = found
    return out


def speed_range(value: Any) -> tuple[float, float]:
    """Parse `'0.9,1.1'` or `'(0.9, 1.1)'`.

    Raises:
        ValueError: these are not two numbers from 0.5 to 2 with 1 between them.
    """
    low, high = float_pair(value)
    if not SLOWEST <= low <= 1 <= high <= FASTEST:
        raise ValueError(f"must be '(low, high)' with {SLOWEST:g} <= low <= 1 <= high <= {FASTEST:g}, got {value!r}")
    return low, high
