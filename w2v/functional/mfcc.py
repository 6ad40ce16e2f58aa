"""MFCC by Kaldi's formula with its standard options, and their first two differences: targets of HuBERT's first round.

The numbers are those of `torchaudio.compliance.kaldi.mfcc(wave, use_energy=False)` on samples in [-1, 1], which the
original calls (examples/hubert/simple_kmeans); computed in float64, so that no rounding of silence shows.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

WINDOW, STEP = 0.025, 0.010  # s
NUM_MELS, NUM_CEPSTRA = 23, 13
LOWEST, PREEMPHASIS, LIFTER = 20.0, 0.97, 22
FLOOR = 1.1920929e-7  # float32's epsilon
BLOCK = 4096  # frames at once: about 30 MB


def mfcc(samples: npt.ArrayLike, sample_rate: int = 16000) -> npt.NDArray[np.float32]:
    """Return (T, 39) float32: 13 cepstra, their differences, the differences of those.

    Args:
        samples: (S,) in [-1, 1].
        sample_rate: in Hz.

    Returns:
        A frame of 25 ms for every 10 ms, whole frames only: 1 + (S - 400) // 160 at 16 kHz, none of less than 400.
    """
    wave = np.asarray(samples, dtype=np.float64)
    width, step = int(sample_rate * WINDOW), int(sample_rate * STEP)
    if len(wave) < width:
        return np.zeros((0, 3 * NUM_CEPSTRA), dtype=np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(wave, width)[::step]  # (T, W), a view
    cepstra = np.concatenate([_cepstra(frames[i : i + BLOCK], sample_rate) for i in range(0, len(frames), BLOCK)])
    first = differences(cepstra)
    return np.concatenate([cepstra, first, differences(first)], axis=1).astype(np.float32)


def differences(frames: Array) -> Array:
    """Return the slope at each of (T, C) frames over five of them; the first and the last one are repeated."""
    padded = np.pad(frames, ((2, 2), (0, 0)), mode="edge")
    size = len(frames)
    slope: Array = (padded[3 : size + 3] - padded[1 : size + 1] + 2 * (padded[4:] - padded[:size])) / 10
    return slope


def _cepstra(frames: Array, sample_rate: int) -> Array:
    """Return (T, 13) of (T, W) samples."""
    x = frames - frames.mean(axis=1, keepdims=True)
    # The sample before the first one counts as equal to it.
    x = x - PREEMPHASIS * np.concatenate([x[:, :1], x[:, :-1]], axis=1)
    window, filters, cosines, size = _tables(frames.shape[1], sample_rate)
    power = np.abs(np.fft.rfft(x * window, size, axis=1)) ** 2
    # The last bin, half the rate, has no weight in Kaldi. (T, F) x (F, 23) x (23, 13)
    cepstra: Array = np.log(np.maximum(power[:, :-1] @ filters, FLOOR)) @ cosines
    return cepstra


@lru_cache(maxsize=4)
def _tables(width: int, sample_rate: int) -> tuple[Array, Array, Array, int]:
    """Return the window (W,), the mel filters (F, 23), the weighted cosines (23, 13), and the size of the FFT."""
    size = 1 << (width - 1).bit_length()
    window = np.hanning(width) ** 0.85  # what Kaldi calls povey
    low, high = _mel(np.array([LOWEST, sample_rate / 2]))
    step = (high - low) / (NUM_MELS + 1)
    edges = low + step * np.arange(NUM_MELS)  # (23,) where each triangle begins; they are triangles in mel
    bins = _mel(np.arange(size // 2) * sample_rate / size)[:, None]
    filters = np.maximum(np.minimum(bins - edges, edges + 2 * step - bins) / step, 0.0)
    j, b = np.arange(NUM_CEPSTRA)[None, :], np.arange(NUM_MELS)[:, None]
    cosines = np.sqrt(2 / NUM_MELS) * np.cos(np.pi * j * (b + 0.5) / NUM_MELS)
    cosines[:, 0] = np.sqrt(1 / NUM_MELS)
    cosines = cosines * (1 + LIFTER / 2 * np.sin(np.pi * j / LIFTER))
    return window, filters, cosines, size


def _mel(hertz: Array) -> Array:
    found: Array = 1127.0 * np.log(1.0 + hertz / 700.0)
    return found
