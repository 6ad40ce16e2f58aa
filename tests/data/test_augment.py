"""Closed forms: levels measured in dB, shifts undone; then what must not change: validation, workers, other draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from w2v.config import build_config
from w2v.config.sections import DatasetConfig
from w2v.data.augment import OCTAVES, Augmentation, amplitude, decibel_range, filtered, shifted, with_noise
from w2v.data.dataset import AudioDataset
from w2v.data.iterator import iterate
from w2v.data.manifest import make_manifest
from w2v.errors import ConfigError
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask
from w2v.tasks.hubert_pretraining import HubertPretrainingConfig

LENGTHS = [40000, 30000, 40000]


def speech(*lengths: int) -> Tensor:
    """Return zero-padded tones of different loudness."""
    batch = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        batch[row, :length] = 0.1 * (row + 1) * torch.sin(torch.arange(length) * 0.05 * (row + 1))
    return batch


def decibels(power: Tensor) -> float:
    return 10 * math.log10(float(power))


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_measured_noise(snr: float) -> None:
    source, lengths = speech(*LENGTHS), torch.tensor(LENGTHS)
    noisy = Augmentation(snr=(snr, snr)).apply(source, lengths, 3)
    for row, length in enumerate(LENGTHS):
        noise = (noisy - source)[row, :length]
        ratio = decibels(source[row, :length].square().mean() / noise.square().mean())
        assert ratio == pytest.approx(snr, abs=0.2)  # the spread of a measured variance of 30000 draws is 0.04 dB
        scaled = noise / noise.std()
        assert abs(float(scaled.mean())) < 0.03
        assert float(scaled.pow(4).mean()) == pytest.approx(3, abs=0.2)  # of a normal distribution
        assert abs(float((scaled[1:] * scaled[:-1]).mean())) < 0.03
    assert not noisy[1, LENGTHS[1] :].any()


def test_measured_gain_fills_its_range() -> None:
    source = speech(*[200] * 400)
    louder = Augmentation(gain=6.0).apply(source, torch.full((400,), 200), 1)
    factors = louder[:, 7] / source[:, 7]
    torch.testing.assert_close(louder, source * factors.unsqueeze(1))
    levels = 20 * factors.log10()
    assert levels.abs().max() <= 6.001
    assert levels.min() < -5.5
    assert levels.max() > 5.5
    assert abs(float(levels.mean())) < 0.6


def test_measured_shift_fills_its_range() -> None:
    clips, width, most = 300, 50, 7
    source = torch.arange(1.0, width + 1).repeat(clips, 1)
    moved = Augmentation(shift=most).apply(source, torch.full((clips,), width), 1)
    found = set()
    for row in moved:
        # The value v stood at v - 1.
        shift = int((torch.arange(width) - (row - 1))[row > 0][0])
        found.add(shift)
        torch.testing.assert_close(row, shifted(source[0], shift))
        assert int((row == 0).sum()) == abs(shift)
    assert found == set(range(-most, most + 1))


@pytest.mark.parametrize("samples", [0, 3, -3, 9, -9, 10, -10, 1000])
def test_shift_against_indexing(samples: int) -> None:
    clip = torch.arange(1.0, 11)
    expected = [float(clip[t - samples]) if 0 <= t - samples < 10 else 0.0 for t in range(10)]
    assert shifted(clip, samples).tolist() == expected


def test_silence_stays_silence() -> None:
    assert not with_noise(torch.zeros(100), torch.randn(100), 10.0).any()
    assert not filtered(torch.zeros(100), np.arange(float(OCTAVES))).any()


@pytest.mark.parametrize("length", [4096, 5003])  # a power of two and a prime
def test_measured_filter(length: int) -> None:
    """Tones come out as much louder as was asked, between octaves by the mean in dB, and not later."""
    gains = np.array([4.0, -10, 6, 0, -3, 8, 2])
    tones = {1 / 2: -10.0, 1 / 4: 6.0, 1 / 8: 0.0, 1 / 64: 2.0, 1 / 128: 2.0, 2**-1.5: -2.0, 2**-2.5: 3.0}
    levels = {}
    for share, expected in tones.items():  # of half the sample rate
        clip = torch.sin(math.pi * share * torch.arange(length))
        # A loud tone at an eighth stays alone in the power, which is kept: its gain is 0 dB.
        loud = 1000 * torch.sin(math.pi / 8 * torch.arange(length))
        changed = filtered(clip + loud, gains) - filtered(loud, gains)
        middle = slice(length // 4, length // 2)
        factor = float((changed[middle] * clip[middle]).sum() / clip[middle].square().sum())
        levels[share] = (20 * math.log10(factor), expected)
        assert float((changed - factor * clip)[middle].std()) < 0.05 * factor  # no shift in time
    for measured, expected in levels.values():
        assert measured == pytest.approx(expected, abs=0.3)


def test_filter_keeps_power_and_flat_is_none() -> None:
    clip = torch.randn(5003, generator=torch.Generator().manual_seed(1))
    changed = filtered(clip, np.array([12.0, -12, 12, 12, -12, 0, 5]))
    assert changed.square().mean() == pytest.approx(float(clip.square().mean()), rel=1e-4)
    torch.testing.assert_close(filtered(clip, np.full(OCTAVES, 5.0)), clip, rtol=1e-4, atol=1e-5)
    assert filtered(clip[:1], np.ones(OCTAVES)).shape == (1,)


def test_filters_fill_their_range() -> None:
    """White noise through 300 filters: the level of each band spreads as the uniform draws do, less the kept power."""
    noise = torch.randn(2048, generator=torch.Generator().manual_seed(1)).repeat(300, 1)
    changed = Augmentation(filter_gain=10.0).apply(noise, torch.full((300,), 2048), 1)
    spectra, plain = torch.fft.rfft(changed).abs(), torch.fft.rfft(noise[0]).abs()
    octave = 1024 // 2 ** torch.arange(4)  # bins at half the sample rate, a quarter ...
    difference = 20 * (spectra[:, octave[1] - 3 : octave[1] + 4] / plain[octave[1] - 3 : octave[1] + 4]).log10().mean(1)
    other = 20 * (spectra[:, octave[3] - 1 : octave[3] + 2] / plain[octave[3] - 1 : octave[3] + 2]).log10().mean(1)
    apart = difference - other  # the difference of two uniform draws: the kept power falls out
    assert float(apart.std()) == pytest.approx(20 / math.sqrt(6), rel=0.12)
    assert float(apart.abs().max()) < 20.5


def test_levels() -> None:
    assert amplitude(20) == pytest.approx(10)
    assert amplitude(-6.0206) == pytest.approx(0.5, abs=1e-5)
    assert decibel_range("(10, 30)") == (10, 30)
    assert decibel_range("15") == decibel_range(15) == decibel_range([15.0]) == (15, 15)
    for wrong in ("(30, 10)", "(1, 2, 3)", "loud"):
        with pytest.raises(ValueError, match=r"got|not"):
            decibel_range(wrong)


def test_each_kind_has_its_own_draws() -> None:
    source, lengths = speech(*LENGTHS), torch.tensor(LENGTHS)
    both = Augmentation(snr=(0.0, 30.0), gain=6.0).apply(source, lengths, 3)
    noisy = Augmentation(snr=(0.0, 30.0)).apply(source, lengths, 3)
    louder = Augmentation(gain=6.0).apply(source, lengths, 3)
    filtered_too = Augmentation(filter_gain=6.0, gain=6.0).apply(source, lengths, 3)
    torch.testing.assert_close(
        filtered_too,
        Augmentation(filter_gain=6.0).apply(source, lengths, 3) * torch.nan_to_num(louder[:, 5:6] / source[:, 5:6]),
    )
    torch.testing.assert_close(both, torch.nan_to_num(noisy * (louder[:, 5] / source[:, 5]).unsqueeze(1)))
    assert torch.equal(noisy, Augmentation(snr=(0.0, 30.0)).apply(source, lengths, 3))
    assert not torch.equal(noisy, Augmentation(snr=(0.0, 30.0)).apply(source, lengths, 4))


# ------------------------------------------------------------------------------------------- in the data set


def make(folder: Path, **options: Any) -> AudioDataset:
    sizes = [4000, 3000, 5000, 4500]
    for number, size in enumerate(sizes):
        samples = 0.1 * np.random.default_rng(number).normal(size=size)
        soundfile.write(folder / f"{number}.wav", samples, 16000, subtype="FLOAT")
    (folder / "train.tsv").write_text(
        "\n".join([str(folder), *(f"{number}.wav\t{size}" for number, size in enumerate(sizes))]) + "\n"
    )
    return AudioDataset(make_manifest(str(folder), [f"{n}.wav" for n in range(4)], sizes, "train.tsv"), **options)


STEADY = Augmentation(shift=80, filter_gain=8.0, snr=(5.0, 30.0), gain=6.0)
ALL = Augmentation((0.8, 1.25), shift=80, filter_gain=8.0, snr=(5.0, 30.0), gain=6.0)


@pytest.mark.parametrize("pad", [False, True])
def test_a_batch_is_changed_after_its_crop(tmp_path: Path, pad: bool) -> None:
    plain = make(tmp_path, max_sample_size=3500, pad=pad)
    before = plain.batch([0, 1, 3], seed=7)
    after = plain.augmented(STEADY).batch([0, 1, 3], seed=7)
    assert torch.equal(after.source, STEADY.apply(before.source, before.lengths, 7))
    assert torch.equal(after.lengths, before.lengths)
    assert torch.equal(plain.batch([0, 1, 3], seed=7).source, before.source)
    assert torch.equal(plain.augmented(Augmentation()).batch([0, 1, 3], seed=7).source, before.source)


def test_workers_draw_the_same(tmp_path: Path) -> None:
    dataset = make(tmp_path, max_sample_size=3500).augmented(ALL)
    batches, seeds = [np.array([0, 1]), np.array([2]), np.array([3, 0])], [5, 6, 7]
    alone = [batch.source for batch in iterate(dataset, batches, seeds, num_workers=0)]
    shared = [batch.source for batch in iterate(dataset, batches, seeds, num_workers=2)]
    assert len(alone) == len(shared) == 3
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one, other)


def test_training_is_changed_and_validation_is_not(tmp_path: Path) -> None:
    make(tmp_path)
    flags = {
        "augment_speed": "0.8,1.25",
        "augment_snr_db": "(5, 30)",
        "augment_shift_ms": 5,
        "augment_filter_db": 8,
        "augment_gain_db": 6,
    }
    options = DatasetConfig(max_tokens=100_000, num_workers=0)

    def batches(**changes: Any) -> tuple[Tensor, Tensor]:
        config = build_config(AudioPretrainingConfig, {"data": str(tmp_path), **changes}, "test")
        task = AudioPretrainingTask(config)
        [update] = task.train_batches("train", options).updates(1)
        [valid] = task.valid_batches("train", options)
        return update[0][0].source, valid.source

    train, valid = batches()
    changed, same = batches(**flags)
    assert torch.equal(valid, same)
    assert not torch.equal(train, changed)
    assert build_config(AudioPretrainingConfig, {"data": "x", **flags}, "test").augmentation == ALL


def test_flags_that_break_a_rule() -> None:
    with pytest.raises(ConfigError, match="--augment-gain-db must be at least 0"):
        build_config(AudioPretrainingConfig, {"data": "x", "augment_gain_db": -1}, "test")
    with pytest.raises(ConfigError, match="--augment-snr-db"):
        build_config(AudioPretrainingConfig, {"data": "x", "augment_snr_db": "(3, 1)"}, "test")
    for wrong in ("1.1,1.2", "0.9", "1.1,0.9", "0.1,1"):
        with pytest.raises(ConfigError, match="--augment-speed"):
            build_config(AudioPretrainingConfig, {"data": "x", "augment_speed": wrong}, "test")
    for flags in ({"augment_speed": "0.9,1.1"}, {"augment_shift_ms": 5}):
        with pytest.raises(ConfigError, match="--task hubert_pretraining"):
            build_config(HubertPretrainingConfig, {"data": "x", "labels": "km", "label_rate": 50, **flags}, "test")
