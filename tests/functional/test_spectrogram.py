"""The spectrogram of sines, clicks and silence, whose levels are known."""

from __future__ import annotations

import numpy as np
import pytest

from w2v.functional.spectrogram import spectrogram

RATE = 16000


@pytest.mark.parametrize(("frequency", "amplitude"), [(440.0, 1.0), (3000.0, 0.1), (7000.0, 0.01)])
def test_a_sine_has_its_level_at_its_frequency(frequency: float, amplitude: float) -> None:
    time = np.arange(RATE) / RATE
    found = spectrogram((amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32), RATE)
    middle = found.decibels[:, found.decibels.shape[1] // 2]
    assert found.decibels.shape[0] == 201  # bands of 40 Hz: windows of 25 ms
    assert middle.argmax() * found.highest / 200 == pytest.approx(frequency, abs=20)
    assert middle.max() == pytest.approx(20 * np.log10(amplitude), abs=0.05)


def test_columns_are_centred_at_multiples_of_the_hop() -> None:
    samples = np.zeros(RATE, np.float32)
    samples[37 * 160] = 1
    found = spectrogram(samples, RATE)
    assert found.hop == 160
    assert found.decibels.max(axis=0).argmax() == 37


@pytest.mark.parametrize("size", [0, 1, 159, 160, 161, 400])
def test_clips_of_any_length_have_a_column_per_hop(size: int) -> None:
    found = spectrogram(np.zeros(size, np.float32), RATE)
    assert found.decibels.shape == (201, size // 160 + 1)
    assert (found.decibels == -100).all()
