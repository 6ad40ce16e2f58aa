"""Speech told by its level alone, for where silero-vad is not installed: louder than the quiet of the last seconds.

It knows no speech from music or clapping, but misses none in a recording whose noise is steady.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Samples = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float32]

WINDOW = 512  # samples: 32 ms
HISTORY = 312  # windows whose quietest tenth is the noise: 10 s
ABOVE_NOISE = 6.0  # dB
# Before the first sound there was a second of this. It stays the quietest tenth for 10 s, so that a recording that
# begins in the middle of a word loses nothing.
FIRST_NOISE, FIRST_WINDOWS = -60.0, 32
SILENCE = -70.0  # dB of full scale: nothing below is speech
_ROWS = 4096  # windows at once: 5 MB


class LevelDetector:
    """1 for each window of 512 samples at 16 kHz that is louder than the noise by 6 dB, else 0.

    The noise is the 10th percentile of the levels of the last 10 s. Speech ends after `SpeechRule.min_silence`, for
    which 0.3 s suits this detector.
    """

    window = WINDOW
    sample_rate = 16000

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)
        # NaN: not heard yet.
        self._levels = np.full(HISTORY - 1, np.nan)
        self._levels[-FIRST_WINDOWS:] = FIRST_NOISE

    def push(self, samples: Samples) -> Probabilities:
        """Take (S,) samples in [-1, 1]; return 0 or 1 for each window that is complete."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // WINDOW
        self._rest = samples[whole * WINDOW :].copy()
        rows = samples[: whole * WINDOW].reshape(-1, WINDOW).astype(np.float64)
        rows -= rows.mean(axis=1, keepdims=True)  # a constant is no sound
        with np.errstate(divide="ignore"):
            levels = 10 * np.log10(np.square(rows).mean(axis=1))
        heard = np.concatenate([self._levels, levels])
        self._levels = heard[len(heard) - HISTORY + 1 :]
        found = np.zeros(whole, np.float32)
        for first in range(0, whole, _ROWS):
            part = levels[first : first + _ROWS]
            # (rows, HISTORY): the levels of the last 10 s up to each window; NaN, before the beginning, sorts last.
            past = np.sort(sliding_window_view(heard[first : first + len(part) + HISTORY - 1], HISTORY), axis=1)
            counted = HISTORY - np.isnan(past).sum(axis=1)
            noise = past[np.arange(len(part)), counted // 10]
            found[first : first + len(part)] = (part > noise + ABOVE_NOISE) & (part > SILENCE)
        return found

    def finish(self) -> Probabilities:
        """Return 0 or 1 for the last window, filled up with zeros, if one has begun."""
        return self.push(np.zeros(-len(self._rest) % WINDOW, np.float32))
