"""Batches read straight into their place are those that are joined from whole clips; odd files take the long way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from w2v.data import dataset as module
from w2v.data.audio import read_window
from w2v.data.dataset import AudioDataset, ReadReport
from w2v.data.labels import Labels
from w2v.data.manifest import make_manifest

RATE = 16000
SIZES = [9000, 12345, 16000, 7001, 30000, 9001]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(1)
    for i, size in enumerate(SIZES):
        clip = rng.uniform(-0.9, 0.9, size)
        soundfile.write(target / f"{i}.flac", clip, RATE, subtype="PCM_24" if i % 2 else "PCM_16")
        soundfile.write(target / f"{i}.wav", clip, RATE, subtype=("PCM_16", "PCM_24", "PCM_32", "PCM_U8")[i % 4])
    return target


def make(folder: Path, kind: str = "flac", sizes: Any = SIZES, **options: Any) -> AudioDataset:
    return AudioDataset(make_manifest(str(folder), [f"{i}.{kind}" for i in range(len(sizes))], sizes), **options)


def same(one: Any, other: Any) -> bool:
    fields = ("source", "lengths", "indices", "targets", "target_lengths")
    pairs = [(getattr(one, name), getattr(other, name)) for name in fields]
    return one.seed == other.seed and all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["flac", "wav"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("longest", [None, 8000, 9500])
@pytest.mark.parametrize("pad", [False, True])
def test_both_ways_agree_to_the_bit(folder: Path, kind: str, normalize: bool, pad: bool, longest: int | None) -> None:
    clips = make(folder, kind, normalize=normalize, pad=pad, max_sample_size=longest)
    for seed, chosen in enumerate(([0, 1, 2, 3, 4, 5], [4], [2, 0], [5, 4, 1])):
        indices = np.array(chosen)
        planned = clips._as_planned(indices, seed, ReadReport())
        assert planned is not None
        assert same(planned, clips._as_found(indices, seed, ReadReport()))


def test_with_labels(folder: Path) -> None:
    labels = Labels(np.arange(12, dtype=np.int32), np.array([0, 1, 3, 3, 6, 10, 12]), pad=1)
    clips = AudioDataset(make_manifest(str(folder), [f"{i}.wav" for i in range(6)], SIZES), labels)
    planned = clips._as_planned(np.arange(6), 1, ReadReport())
    assert planned is not None
    assert same(planned, clips._as_found(np.arange(6), 1, ReadReport()))


@pytest.mark.parametrize("odd", ["size", "float", "rate", "stereo", "gone", "cut", "vorbis"])
def test_odd_files_take_the_long_way(folder: Path, tmp_path: Path, odd: str) -> None:
    for i in range(6):
        (tmp_path / f"{i}.flac").write_bytes((folder / f"{i}.flac").read_bytes())
    victim, clip = tmp_path / "2.flac", np.full(16000, 0.5)
    if odd == "float":
        soundfile.write(victim, clip, RATE, format="WAV", subtype="FLOAT")
    elif odd == "rate":
        soundfile.write(victim, clip, 8000)
    elif odd == "stereo":
        soundfile.write(victim, np.stack([clip, clip], axis=1), RATE)
    elif odd == "gone":
        victim.unlink()
    elif odd == "cut":
        victim.write_bytes(victim.read_bytes()[:20000])
    elif odd == "vorbis":
        soundfile.write(victim, clip, RATE, format="OGG")
    sizes = [size + (odd == "size" and i == 2) for i, size in enumerate(SIZES)]
    clips = make(tmp_path, sizes=sizes, pad=True)
    assert clips._as_planned(np.array([0, 2]), 1, ReadReport()) is None
    batch, report = clips.load([0, 2], 1)
    replaced = odd in ("rate", "stereo", "gone", "cut")
    assert batch.indices.tolist() == ([0, 3] if replaced else [0, 2])
    assert list(report.bad) == ([2] if replaced else [])


def test_a_derived_class_reads_its_clips_itself(folder: Path) -> None:
    class Silent(AudioDataset):
        def example(self, index: int, rng: Any = None) -> Any:
            return super().example(index, rng).__class__(index, torch.zeros(SIZES[index]))

    clips = Silent(make_manifest(str(folder), [f"{i}.wav" for i in range(6)], SIZES))
    assert not clips.batch([0, 1], 1).source.any()


def test_a_window_of_a_long_clip_is_all_that_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(path: str, rate: int, size: int, start: int, out: Any, *more: Any, **named: Any) -> bool:
        read.append(len(out))
        return read_window(path, rate, size, start, out, *more, **named)

    monkeypatch.setattr(module, "read_window", counted)
    make(folder, max_sample_size=5000).batch([4, 2], 1)
    assert read == [5000, 5000]
