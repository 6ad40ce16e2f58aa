"""Oracles: h5py and safetensors themselves; what is written must come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from w2v.errors import DataError
from w2v.inference.feature_file import SUFFIXES, read_features, write_features


def frames(num_frames: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num_frames, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("num_frames", [7, 1, 0])
def test_frames_come_back(kind: str, num_frames: int, tmp_path: Path) -> None:
    if kind == "h5":
        pytest.importorskip("h5py")
    path = tmp_path / f"a{SUFFIXES[kind]}"
    write_features(path, frames(num_frames), 100.0, kind)
    np.testing.assert_array_equal(read_features(path), frames(num_frames))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_h5context_is_laid_out_as_the_original(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    write_features(tmp_path / "a.h5context", frames(), 100.0, "h5")
    with h5py.File(tmp_path / "a.h5context") as h5:
        assert h5["features"].dtype == np.float32
        assert h5["info"].dtype == np.float64
        np.testing.assert_array_equal(h5["features"][()], frames().reshape(-1))
        np.testing.assert_array_equal(h5["info"][()], [100, 7, 3])


def test_safetensors_can_be_read_by_its_own_package(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    numpy_reader = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "a.safetensors"
    write_features(path, frames(), 100.0, "safetensors")
    np.testing.assert_array_equal(numpy_reader.load_file(path)["features"], frames())
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"frame_rate": "100"}
    numpy_reader.save_file({"features": frames()}, path)
    np.testing.assert_array_equal(read_features(path), frames())


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors", "a.wav"])
def test_broken_files_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xff" * 40)
    with pytest.raises(DataError, match=name):
        read_features(tmp_path / name)
