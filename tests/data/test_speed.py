"""Closed forms: a tone's pitch and length at a speed; then limits, budgets, and what must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from w2v.config import build_config
from w2v.config.sections import DatasetConfig
from w2v.data.augment import Augmentation
from w2v.data.batch_sampler import plan_batches
from w2v.data.dataset import AudioDataset
from w2v.data.labels import Labels
from w2v.data.manifest import make_manifest
from w2v.data.speed import Speeds, length_at, played, speed_range, stretch_behind
from w2v.functional.conv_spec import conv_layers, frame_lengths, samples_for_frames
from w2v.rng import numpy_generator
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

SIZES = [6000, 4000, 5200, 4800, 3000, 6100]
FAST_AND_SLOW = Augmentation((0.8, 1.25))


def tone(cycles: float, size: int) -> np.ndarray[Any, Any]:
    """Return a tone of so many cycles per sample."""
    return np.sin(2 * np.pi * cycles * np.arange(size)).astype(np.float32)


def write(folder: Path, container: str = "PCM_16") -> list[str]:
    """Write tones of 0.01 cycles a sample, and what training needs beside them."""
    names = [f"{number}.wav" for number in range(len(SIZES))]
    for name, size in zip(names, SIZES):
        soundfile.write(folder / name, 0.5 * tone(0.01, size), 16000, subtype=container)
    lines = [f"{name}\t{size}" for name, size in zip(names, SIZES)]
    (folder / "train.tsv").write_text("\n".join([str(folder), *lines]) + "\n", encoding="utf-8")
    (folder / "train.ltr").write_text("A B A\n" * len(SIZES), encoding="utf-8")
    (folder / "dict.ltr.txt").write_text("A 2\nB 1\n", encoding="utf-8")
    return names


def make(folder: Path, container: str = "PCM_16", **options: Any) -> AudioDataset:
    names = write(folder, container)
    return AudioDataset(make_manifest(str(folder), names, SIZES, "train.tsv"), **options)


@pytest.mark.parametrize("speed", [0.8, 0.93, 1.07, 1.25])
def test_a_tone_at_a_speed_is_a_tone_of_another_pitch(speed: float) -> None:
    length = length_at(8000, speed)
    assert abs(length * speed - 8000) < speed
    found = played(tone(0.05, 8000), speed, length)
    assert found.shape == (length,)
    np.testing.assert_allclose(found[200:-200], tone(0.05 * speed, length)[200:-200], atol=1e-4)


def test_a_window_is_a_part_of_the_whole_clip_at_that_speed() -> None:
    clip, speed = tone(0.01, 9000), 1.2
    whole = played(clip, speed, length_at(9000, speed))
    first, stop = stretch_behind(3000, 2000, 9000, speed)
    window = played(clip[first:stop], speed, 2000)
    # Both begin at a whole sample of the clip, so they are less than a sample apart.
    np.testing.assert_allclose(window[100:-100], whole[3100:4900], atol=2 * np.pi * 0.01 * speed)
    assert stretch_behind(0, length_at(9000, speed), 9000, speed) == (0, 9000)


@pytest.mark.parametrize("options", [{"pad": True}, {"max_sample_size": 3500}, {}])
@pytest.mark.parametrize("container", ["PCM_16", "FLOAT"])
def test_lengths_of_a_batch_follow_from_the_speeds(tmp_path: Path, options: dict[str, Any], container: str) -> None:
    dataset = make(tmp_path, container, **options)
    chosen = np.array([2, 0, 4])
    found = dataset.augmented(FAST_AND_SLOW).batch(chosen, seed=11)
    draws = 0.8 + 0.45 * numpy_generator(11, "speed").random(3)
    lengths = [round(SIZES[index] / speed) for index, speed in zip(chosen.tolist(), draws)]
    width = max(lengths) if options.get("pad") else min(*lengths, options.get("max_sample_size", 10**6))
    assert found.source.shape == (3, width)
    assert found.lengths.tolist() == [min(length, width) for length in lengths]
    for row, length, speed in zip(found.source, found.lengths.tolist(), draws):
        crossings = int((row[: length - 1] * row[1:length] < 0).sum())
        assert abs(crossings - 2 * 0.01 * speed * length) <= 2
        assert not row[length:].any()


@pytest.mark.parametrize(
    "options", [{"pad": True}, {"max_sample_size": 3500}, {"max_sample_size": 3500, "normalize": True}]
)
def test_reading_into_the_batch_and_reading_first_are_the_same(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(tmp_path, **options).augmented(FAST_AND_SLOW)
    planned = dataset.batch([5, 0, 3], seed=2)
    monkeypatch.setattr(AudioDataset, "_as_planned", lambda *_: None)
    found = dataset.batch([5, 0, 3], seed=2)
    torch.testing.assert_close(planned.source, found.source, rtol=0, atol=1e-6)
    assert planned.starts == found.starts
    assert torch.equal(planned.lengths, found.lengths)


@pytest.mark.parametrize("options", [{"pad": True}, {"max_sample_size": 3500}])
def test_a_row_does_not_depend_on_the_clips_beside_it(tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = make(tmp_path, pad=True).augmented(FAST_AND_SLOW)
    few, many = dataset.batch([4], seed=3), dataset.batch([4, 5, 0, 1], seed=3)
    size = int(few.lengths[0])
    assert int(many.lengths[0]) == size
    assert torch.equal(many.source[0, :size], few.source[0])
    assert not many.source[0, size:].any()


def test_speed_one_is_bitwise_nothing(tmp_path: Path) -> None:
    dataset = make(tmp_path, max_sample_size=3500)
    same = dataset.augmented(Augmentation((1.0, 1.0)))
    assert same.augmentation is None
    assert same.speeds is None
    before, after = dataset.batch([0, 1, 2], seed=5), same.batch([0, 1, 2], seed=5)
    assert torch.equal(before.source, after.source)
    # A clip that draws exactly 1 is read as it is, too.
    same.speeds = Speeds(1.0, 1.0, np.zeros(len(SIZES), dtype=np.int64))
    assert torch.equal(before.source, same.batch([0, 1, 2], seed=5).source)


def test_limits_hold_for_every_draw() -> None:
    sizes = np.array([100, 990, 1000, 1010, 4000])
    speeds = Speeds(0.5, 2.0, np.array([100, 600, 0, 1000, 5000]), longest=1500)
    lengths = np.array(
        [
            [
                length_at(size, speed)
                for size, speed in zip(sizes.tolist(), speeds.draw(np.arange(5), sizes.tolist(), seed))
            ]
            for seed in range(2000)
        ]
    )
    # neither below what is needed nor above the longest; where it is beyond both already, as it is
    assert lengths.min(axis=0).tolist() == pytest.approx([100, 600, 500, 1000, 4000], abs=2)
    assert (lengths.min(axis=0) >= [100, 600, 500, 1000, 4000]).all()
    most = speeds.most_samples(sizes)
    assert most.tolist() == [200, 1500, 1500, 1500, 4000]
    assert (lengths <= most).all()
    assert lengths.max(axis=0).tolist() == pytest.approx(most.tolist(), abs=2)


@pytest.mark.parametrize("labels", [False, True])
def test_no_batch_outgrows_its_budget_and_no_clip_is_lost(tmp_path: Path, labels: bool) -> None:
    given = Labels(np.ones(6, dtype=np.int32), np.arange(7)) if labels else None
    plain = make(tmp_path, pad=True, labels=given, max_sample_size=6100 if labels else None)
    dataset = plain.augmented(FAST_AND_SLOW, max_tokens=12800)
    plan = plan_batches(dataset.sizes, dataset.lengths, seed=1, max_tokens=12800, batch_size=None, multiple=1)
    assert plan.num_skipped == 0
    assert sorted(np.concatenate(plan.batches).tolist()) == list(range(6))
    for seed in range(20):
        for indices in plan.batches:
            batch = dataset.batch(indices, seed)
            assert batch.num_tokens <= 12800
            assert not labels or int(batch.lengths.max()) <= 6100


def test_frames_and_samples_are_inverse() -> None:
    layers = conv_layers("[(4, 10, 5), (4, 8, 4)] + [(4, 4, 4)] * 2")
    frames = np.arange(1, 200)
    samples = samples_for_frames(frames, layers)
    assert [frame_lengths(int(size), layers) for size in samples] == frames.tolist()
    assert [frame_lengths(int(size) - 1, layers) for size in samples] == (frames - 1).tolist()


def test_labels_that_fitted_into_their_frames_still_do(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "train.ltr").write_text("A A A A A A\n" * len(SIZES), encoding="utf-8")
    config = build_config(
        AudioPretrainingConfig, {"data": str(tmp_path), "labels": "ltr", "augment_speed": "0.5,2"}, "test"
    )
    task = AudioPretrainingTask(config)
    task._conv_layers = layers = conv_layers("[(4, 300, 300)]")  # 11 frames, of which the shortest clip has ten
    clips = task.load_dataset("train")
    assert clips.sizes.min() >= 11 * 300
    batches = task.train_batches("train", DatasetConfig(max_tokens=100_000, num_workers=0))
    for epoch in range(1, 9):
        batches.epoch, batches.position = epoch, 0
        for update in batches.updates(1):
            assert (frame_lengths(update[0][0].lengths, layers) >= 11).all()


def test_ranges() -> None:
    assert speed_range("0.9,1.1") == speed_range("(0.9, 1.1)") == speed_range([0.9, 1.1]) == (0.9, 1.1)
