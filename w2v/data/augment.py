"""Random changes of the audio that training sees: other speed, shift in time, other microphone, noise, other loudness.

All draws follow from the batch's own seed, each kind from its own generator: turning one on leaves the others as they
were. Not in the original. Crops are `dataset`'s, masks the models'; speeds are drawn and applied where lengths are
still open (`speed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.config import float_tuple
from w2v.rng import numpy_generator

OCTAVES = 7  # gains of a filter: at half the sample rate, at a half of that and so on, at 16 kHz down to 125 Hz


@dataclass(frozen=True)
class Augmentation:
    """What is changed, in this order; every clip of a batch has draws of its own.

    Attributes:
        speed: the clip is played at a speed uniform in [low, high], before it is cropped or padded.
        shift: the clip moves by a whole number of samples, uniform in [-shift, shift]: what leaves at one end is lost,
            at the other end zeros come in.
        filter_gain: each octave of the clip becomes louder by a number of dB, uniform in [-filter_gain, filter_gain],
            as through another microphone; interpolated between octaves. The mean power stays.
        snr: Gaussian noise is added at a signal-to-noise ratio in dB, uniform in [low, high]: the noise's power is
            that much below the mean power of the clip. None: no noise.
        gain: the clip becomes louder by a number of dB, uniform in [-gain, gain]. Nothing is clipped.
    """

    speed: tuple[float, float] = (1.0, 1.0)
    shift: int = 0
    filter_gain: float = 0.0
    snr: tuple[float, float] | None = None
    gain: float = 0.0

    @property
    def is_on(self) -> bool:
        """Whether anything is changed at all."""
        return self.changes_speed or self.changes_samples

    @property
    def changes_speed(self) -> bool:
        """Whether lengths change."""
        return self.speed != (1, 1)

    @property
    def changes_samples(self) -> bool:
        """Whether there is something for `apply` to do."""
        return self.shift > 0 or self.filter_gain > 0 or self.snr is not None or self.gain > 0

    def apply(self, source: Tensor, lengths: Tensor, seed: int) -> Tensor:
        """Return clips with all changes but that of speed, which is behind them; padding stays zero.

        Args:
            source: (B, S) float32 samples.
            lengths: (B,) int64 true samples per clip.
            seed: the batch's.
        """
        shifts = numpy_generator(seed, "time shift")
        filters = numpy_generator(seed, "filter")
        ratios = numpy_generator(seed, "noise ratio")
        gains = numpy_generator(seed, "gain")
        changed = torch.zeros_like(source)
        for row, length in enumerate(lengths.tolist()):
            clip = source[row, :length]
            if self.shift > 0:
                clip = shifted(clip, int(shifts.integers(-self.shift, self.shift + 1)))
            if self.filter_gain > 0:
                clip = filtered(clip, filters.uniform(-self.filter_gain, self.filter_gain, OCTAVES))
            if self.snr is not None:
                noise = numpy_generator(seed, "noise", row).standard_normal(length, dtype=np.float32)
                clip = with_noise(clip, torch.from_numpy(noise), ratios.uniform(*self.snr))
            if self.gain > 0:
                clip = clip * amplitude(gains.uniform(-self.gain, self.gain))
            changed[row, :length] = clip
        return changed


def shifted(clip: Tensor, samples: int) -> Tensor:
    """Return a clip (S,) that starts `samples` later, or sooner where negative; zeros come in."""
    moved = torch.zeros_like(clip)
    if abs(samples) >= len(clip):
        return moved
    if samples >= 0:
        moved[samples:] = clip[: len(clip) - samples]
    else:
        moved[:samples] = clip[-samples:]
    return moved


def filtered(clip: Tensor, gains: npt.NDArray[np.float64]) -> Tensor:
    """Return a clip (S,) after a filter of zero phase, at its former mean power.

    As the linear kind of Nam et al., "FilterAugment" (ICASSP 2022), with octaves for its bands of random width.

    Args:
        clip: (S,) samples.
        gains: (G,) in dB at half the sample rate, a quarter, an eighth and so on; flat below the last.
    """
    length = len(clip)
    # A power of two: a length with large prime factors would take many times as long.
    padded = 1 << max(1, length - 1).bit_length()
    octaves = -np.log2(np.maximum(np.arange(padded // 2 + 1), 1) / (padded // 2))  # below half the sample rate
    levels = np.interp(octaves, np.arange(len(gains)), gains)
    response = torch.from_numpy(10.0 ** (levels / 20)).to(clip.dtype)
    changed: Tensor = torch.fft.irfft(torch.fft.rfft(clip, padded) * response, padded)[:length]
    power = changed.square().mean()
    return changed if power == 0 else changed * (clip.square().mean() / power).sqrt()


def with_noise(clip: Tensor, noise: Tensor, snr: float) -> Tensor:
    """Return a clip (S,) plus noise (S,) of unit variance, brought `snr` dB below the clip's mean power.

    Silence has no power, and stays silence.
    """
    return clip + noise * (clip.square().mean().sqrt() * amplitude(-snr))


def amplitude(decibels: float) -> float:
    """Return the factor on samples that a change of level means: 20 dB are 10, -20 dB are 1/10."""
    return float(10.0 ** (decibels / 20))


def decibel_range(value: Any) -> tuple[float, float]:
    """Parse `'(10, 30)'`, or a single number that is both ends.

    Raises:
        ValueError: neither one nor two numbers, or the first is larger than the second.
    """
    items = (float(value),) if isinstance(value, (int, float)) else float_tuple(value)
    if len(items) not in (1, 2) or items[0] > items[-1]:
        raise ValueError(f"must be '(low, high)' or a single number, got {value!r}")
    return items[0], items[-1]
