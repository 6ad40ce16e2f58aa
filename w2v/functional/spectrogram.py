"""The short-time spectrum of a clip in decibels, for people to look at; models read samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
WINDOW, HOP = 0.025, 0.010  # seconds that a Hann window covers, and between two windows
QUIETEST = 1e-10  # power below which everything is silence: -100 dB


@dataclass(frozen=True)
class Spectrogram:
    """Levels over time and frequency.

    Attributes:
        decibels: (F, T) level of each band and window, relative to a sine of amplitude 1.
        hop: samples from one window to the next; window t is centred at sample t * hop.
        highest: frequency of the last band, in Hz; the first one is 0 Hz.
    """

    decibels: Floats
    hop: int
    highest: float


def spectrogram(samples: Floats, sample_rate: int) -> Spectrogram:
    """Return the spectrogram of a clip of any length, its ends filled up with silence.

    Args:
        samples: (S,) float32.
        sample_rate: in Hz.
    """
    size, step = max(round(WINDOW * sample_rate), 4), max(round(HOP * sample_rate), 1)
    num_windows = len(samples) // step + 1
    padded = np.zeros((num_windows - 1) * step + size, dtype=np.float32)
    first = size // 2
    kept = samples[: len(padded) - first]
    padded[first : first + len(kept)] = kept
    # (T, size) views of overlapping windows; only their product with the window is a copy.
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
    shape = np.hanning(size + 1)[:-1].astype(np.float32)
    spectrum = np.fft.rfft(windows * shape, axis=1) * (2 / shape.sum())
    power = spectrum.real**2 + spectrum.imag**2
    decibels = 10 * np.log10(np.maximum(power, QUIETEST))
    return Spectrogram(decibels.T.astype(np.float32), step, sample_rate / 2)
