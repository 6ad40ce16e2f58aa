"""Emissions written and read again, by us and by the safetensors package; files that are something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v.data.dictionary import SPECIALS
from w2v.data.manifest import Manifest, make_manifest
from w2v.errors import DataError
from w2v.inference.emission_file import EmissionFile, EmissionInfo, EmissionWriter, merge_emissions

INFO = EmissionInfo("best.pt", [*SPECIALS, "|", "É"], "letter", "ltr", 16000, 320, 40.0)
NAMES = ["a/1.wav", "ü 2.wav", "odd\udcff.wav"]
FRAMES = [7, 0, 3]


@pytest.fixture
def clips() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pairs = zip(NAMES, FRAMES, strict=True)
    return {name: torch.randn(frames, 6, generator=generator).log_softmax(-1) for name, frames in pairs}


@pytest.fixture
def manifest() -> Manifest:
    return make_manifest("/gone", NAMES, [100, 5, 60], "test.tsv")


def write(path: Path, clips: dict[str, torch.Tensor], names: list[str] = NAMES) -> Path:
    with EmissionWriter(path, INFO, names) as writer:
        for number, name in enumerate(names):
            writer.add(name, 1000 + number, clips[name])
    return path


def test_what_is_written_is_read(tmp_path: Path, clips: dict[str, torch.Tensor], manifest: Manifest) -> None:
    file = EmissionFile(write(tmp_path / "new" / "e.safetensors", clips))
    assert file.info == INFO
    assert file.names == NAMES
    first, second = file.read(manifest, [np.array([2, 0]), np.array([1])])
    assert (first.rows, first.num_samples, first.lengths.tolist()) == ([2, 0], [1002, 1000], [3, 7])
    torch.testing.assert_close(first.clip(0), clips[NAMES[2]], rtol=0, atol=0)
    torch.testing.assert_close(first.clip(1), clips[NAMES[0]], rtol=0, atol=0)
    assert second.log_probs.shape == (1, 0, 6)
    assert [path.name for path in tmp_path.glob("new/*")] == ["e.safetensors"]


def test_the_safetensors_package_reads_it(tmp_path: Path, clips: dict[str, torch.Tensor]) -> None:
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(write(tmp_path / "e.safetensors", clips), framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("log_probs"), torch.cat(list(clips.values())).numpy())
        assert file.get_tensor("frames").tolist() == FRAMES
        assert json.loads(file.metadata()["symbols"]) == INFO.symbols


def test_parts_make_the_whole_to_the_byte(tmp_path: Path, clips: dict[str, torch.Tensor]) -> None:
    whole = write(tmp_path / "whole", clips)
    parts = [tmp_path / "0", tmp_path / "1", tmp_path / "2"]
    for part, chosen in zip(parts, ([2, 0], [1], []), strict=True):
        with EmissionWriter(part, INFO, [NAMES[i] for i in chosen]) as writer:
            for i in chosen:
                writer.add(NAMES[i], 1000 + i, clips[NAMES[i]])
    merge_emissions(parts, tmp_path / "merged", NAMES)
    assert (tmp_path / "merged").read_bytes() == whole.read_bytes()
    assert not any(part.exists() for part in parts)


def test_an_error_leaves_no_file(tmp_path: Path, clips: dict[str, torch.Tensor]) -> None:
    def interrupted() -> None:
        with EmissionWriter(tmp_path / "e", INFO, NAMES) as writer:
            writer.add(NAMES[0], 1, clips[NAMES[0]])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_clip_that_is_not_there(tmp_path: Path, clips: dict[str, torch.Tensor], manifest: Manifest) -> None:
    file = EmissionFile(write(tmp_path / "e", clips, NAMES[:2]))
    with pytest.raises(DataError, match=r"e: has no emissions of odd.*\(test\.tsv:4\)"):
        next(file.read(manifest, [np.array([0, 1]), np.array([2])]))


def test_other_files_are_one_line(tmp_path: Path, clips: dict[str, torch.Tensor]) -> None:
    whole = write(tmp_path / "e", clips).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    contents = [b"", b"text", whole[: size // 2], whole[:-1], b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"]
    changes = [
        ("frames", "data_offsets", [0, 1 << 60]), ("frames", "shape", [-1, -1]), ("log_probs", "shape", [5, 12]),
        ("log_probs", "dtype", "F64"), ("__metadata__", "sample_rate", "0"), ("__metadata__", "format", "pt"),
        ("__metadata__", "symbols", '["<s>"]'), ("names", "shape", []),
    ]  # fmt: skip
    for entry, key, value in changes:
        text = json.dumps({**header, entry: {**header[entry], key: value}}).encode()
        contents.append(len(text).to_bytes(8, "little") + text + whole[8 + size :])
    for number, content in enumerate(contents):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match="bad: holds no emissions"):
            raise AssertionError(f"{number}: {EmissionFile(tmp_path / 'bad').info}")
    np.save(tmp_path / "old.npy", np.array([np.zeros(2), np.zeros(3)], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"original's \.npy files are pickled"):
        EmissionFile(tmp_path / "old.npy")
    with pytest.raises(DataError, match="cannot read the emissions"):
        EmissionFile(tmp_path / "none")
    with pytest.raises(DataError, match="cannot write the emissions"):
        EmissionWriter(tmp_path / "e" / "below", INFO, [])


def test_when_a_frame_begins() -> None:
    assert INFO.seconds(0) == pytest.approx(0.0025)
    assert replace(INFO, offset=0.0).seconds(50) == pytest.approx(1.0)
