"""Oracles: files recorded from the original's featurizer, and the model called on one clip at a time."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from w2v.config import build_config
from w2v.inference.feature_file import SUFFIXES, read_features
from w2v.models.base import W2vModel
from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel
from w2v.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from w2v_cli.featurize import main

TINY = {
    "conv_feature_layers": "[(8, 10, 5), (8, 8, 4), (8, 4, 2), (8, 4, 2), (8, 4, 2)]",
    "conv_aggregator_layers": "[(8, 2, 1), (8, 3, 1)]",
    "vq_vars": 6,
}
TINY_2 = {
    "conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2",
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "quantize_targets": True,
    "latent_vars": 6,
}
Load = Callable[[W2vModel], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Return a function that makes `--model model.pt` mean the model it is given."""
    (tmp_path / "model.pt").write_bytes(b"stands for a checkpoint")

    def serve(model: W2vModel, *, normalize: bool = False) -> None:
        task = SimpleNamespace(config=SimpleNamespace(sample_rate=16000, normalize=normalize, normalize_epsilon=1e-5))
        loaded = SimpleNamespace(model=model, task=task, config={})
        monkeypatch.setattr("w2v_cli.featurize.load_model", lambda path, **_: loaded)

    return serve


def v1(**changes: Any) -> Wav2VecModel:
    torch.manual_seed(0)
    return Wav2VecModel(build_config(Wav2VecConfig, {**TINY, **changes}, "test")).eval()


def v2(**changes: Any) -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(build_config(Wav2Vec2Config, {**TINY_2, **changes}, "test")).eval()


def write_clips(folder: Path, lengths: dict[str, int]) -> None:
    rng = np.random.default_rng(3)
    for name, length in lengths.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.normal(size=length), 16000, subtype="FLOAT")


def original_model(golden: Path, name: str) -> Wav2VecModel:
    path = golden / "checkpoints" / "g1_args" / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, weights_only=True)
    model = Wav2VecModel.build_model(checkpoint["args"], task=None)
    model.load_state_dict(checkpoint["model"])
    return model.eval()


@pytest.mark.parametrize(("folder", "flags"), [("out_c", []), ("out_z", ["--use-feat"])])
def test_files_of_the_original(golden: Path, folder: str, flags: list[str], serve: Load, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    recorded = golden / "featurize" / folder
    serve(original_model(golden, "w2v1"))
    splits = sorted(path.name for path in recorded.iterdir())
    output = tmp_path / "out"
    source = ["-i", str(golden / "featurize" / "in"), "-o", str(output), "--model", str(tmp_path / "model.pt")]
    assert main([*source, "--split", *splits, "--ext", "wav", "--format", "h5", "--gpu", "0", *flags]) == 0
    expected = sorted(path.relative_to(recorded) for path in recorded.rglob("*.h5context"))
    assert expected
    assert sorted(path.relative_to(output) for path in output.rglob("*.h5context")) == expected
    for name in expected:
        with h5py.File(output / name) as ours, h5py.File(recorded / name) as theirs:
            assert set(ours) == set(theirs)
            for key in theirs:
                assert ours[key].dtype == theirs[key].dtype
                assert ours[key].shape == theirs[key].shape
            np.testing.assert_array_equal(ours["info"][()], theirs["info"][()])
            scale = np.abs(theirs["features"][()]).max()
            np.testing.assert_allclose(ours["features"][()], theirs["features"][()], rtol=0, atol=1e-5 * scale)
    others = {path.relative_to(recorded) for path in recorded.rglob("*") if path.is_file()} - set(expected)
    for name in others:
        assert (output / name).read_bytes() == (recorded / name).read_bytes()


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("layer", ["z", "c", "1", "2"])
def test_batches_give_what_single_clips_give(layer: str, kind: str, serve: Load, tmp_path: Path) -> None:
    if kind == "h5":
        pytest.importorskip("h5py")
    model: W2vModel = v2() if layer.isdecimal() else v1()
    serve(model)
    lengths = {"a.wav": 2000, "deep/b.wav": 5000, "deep/er/c.wav": 3210, "d.wav": 2000}
    write_clips(tmp_path / "in", lengths)
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    arguments += ["--model", str(tmp_path / "model.pt"), "--layer", layer, "--format", kind, "--quiet"]
    assert main(arguments) == 0
    for name in lengths:
        samples, _ = soundfile.read(tmp_path / "in" / name, dtype="float32")
        source = torch.from_numpy(samples)[None]
        with torch.no_grad():
            if isinstance(model, Wav2VecModel):
                features = model.extract_features(source, None, layer=layer)
                expected = features.features[0]
            else:
                expected = model.extract_features(source, None, with_layers=True).layers[int(layer) - 1][0]
        ours = read_features((tmp_path / "out" / name).with_suffix(SUFFIXES[kind]))
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-4, atol=1e-5)


def run_in(tmp_path: Path, *flags: str) -> int:
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "model.pt")]
    return main([*arguments, "--format", "npy", *flags])


def test_a_run_goes_on_where_it_stopped(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {f"{number}.wav": 2000 + 100 * number for number in range(4)})
    assert run_in(tmp_path) == 0
    files = sorted((tmp_path / "out").glob("*.npy"))
    before = [read_features(file) for file in files]
    files[1].unlink()
    marked = b"kept as it is"
    files[2].write_bytes(marked)
    assert run_in(tmp_path) == 0
    np.testing.assert_allclose(read_features(files[1]), before[1], rtol=1e-4, atol=1e-5)
    assert files[2].read_bytes() == marked
    assert run_in(tmp_path, "--overwrite") == 0
    for file, features in zip(files, before, strict=True):
        np.testing.assert_array_equal(read_features(file), features)


def test_a_replaced_clip_gets_new_features(serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {"0.wav": 2000, "1.wav": 2100})
    assert run_in(tmp_path) == 0
    first, second = sorted((tmp_path / "out").glob("*.npy"))
    kept, written = read_features(second), first.stat().st_mtime
    write_clips(tmp_path / "in", {"0.wav": 4000})
    os.utime(tmp_path / "in/0.wav", (written + 5, written + 5))
    os.utime(tmp_path / "in/1.wav", (written - 5, written - 5))
    second_written = second.stat().st_mtime_ns
    assert run_in(tmp_path) == 0
    assert "1 clips are newer than their features" in capsys.readouterr().err
    assert len(read_features(first)) > len(kept)
    assert second.stat().st_mtime_ns == second_written


def test_clip_by_clip_not_a_bit_depends_on_the_others(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {f"{number}.wav": 2000 + 100 * number for number in range(3)})
    assert run_in(tmp_path, "--max-tokens", "0") == 0
    before = (tmp_path / "out" / "1.npy").read_bytes()
    (tmp_path / "in" / "0.wav").unlink()
    assert run_in(tmp_path, "--max-tokens", "0", "--overwrite") == 0
    assert (tmp_path / "out" / "1.npy").read_bytes() == before


def test_two_kinds_of_features_are_never_mixed(serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {"a.wav": 2000})
    assert run_in(tmp_path) == 0
    assert run_in(tmp_path, "--layer", "z") == 2
    assert "another --layer (c)" in capsys.readouterr().err
    (tmp_path / "model.pt").write_bytes(b"another model")
    assert run_in(tmp_path) == 2
    assert "another --model" in capsys.readouterr().err
    assert run_in(tmp_path, "--layer", "z", "--overwrite") == 0


def test_windows_of_a_long_clip_join_without_a_seam(serve: Load, tmp_path: Path) -> None:
    """A model without norms' statistics (GRU apart, here only z of wav2vec 2.0 with layer norm) must not notice."""
    model = v2(extractor_mode="layer_norm")
    serve(model)
    write_clips(tmp_path / "in", {"long.wav": 40000, "short.wav": 3000})
    assert run_in(tmp_path, "--layer", "z", "--max-size", "8000", "--context", "640") == 0
    for name in ("long", "short"):
        samples, _ = soundfile.read(tmp_path / "in" / f"{name}.wav", dtype="float32")
        with torch.no_grad():
            expected = model.feature_extractor(torch.from_numpy(samples)[None], None)[0].numpy()
        np.testing.assert_allclose(read_features(tmp_path / "out" / f"{name}.npy"), expected, rtol=1e-4, atol=1e-5)


def test_normalize_is_read_from_the_checkpoint(serve: Callable[..., None], tmp_path: Path) -> None:
    model = v1(aggregator="gru", gru_dim=8)
    serve(model, normalize=True)
    write_clips(tmp_path / "in", {"a.wav": 2000})
    samples, _ = soundfile.read(tmp_path / "in" / "a.wav", dtype="float32")
    normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-5)
    assert run_in(tmp_path, "--layer", "z") == 0
    with torch.no_grad():
        expected = model.extract_features(torch.from_numpy(normal)[None], None, layer="z").features[0]
    np.testing.assert_allclose(read_features(tmp_path / "out" / "a.npy"), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_manifests(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_clips(tmp_path / "audio", {"x/a.wav": 2000, "y/a.wav": 2500})
    (tmp_path / "in").mkdir()
    lines = f"{tmp_path / 'audio'}\nx/a.wav\t2000\ny/a.wav\t2500\n"
    (tmp_path / "in" / "train.tsv").write_text(lines)
    assert run_in(tmp_path, "--split", "train") == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.npy"))
    assert found == ["train/x/a.npy", "train/y/a.npy"]
    shutil.rmtree(tmp_path / "out")
    model = ["--model", str(tmp_path / "model.pt"), "--format", "npy"]
    assert main(["-i", str(tmp_path / "in" / "train.tsv"), "-o", str(tmp_path / "out"), *model]) == 0
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("*.npy")) == ["x", "y"]


def test_labels_beside_a_split_are_copied(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {"waves/a.wav": 2000})
    (tmp_path / "in" / "waves" / "labels.txt").write_text("text\n")
    assert run_in(tmp_path, "--split", "waves") == 0
    assert (tmp_path / "out" / "waves" / "labels.txt").read_text() == "text\n"
    shutil.rmtree(tmp_path / "out")
    assert run_in(tmp_path, "--split", "waves", "--no-copy-labels") == 0
    assert not (tmp_path / "out" / "waves" / "labels.txt").exists()


def test_bad_clips_are_named_and_the_others_written(
    serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {"good.wav": 2000, "short.wav": 100})
    (tmp_path / "in" / "broken.wav").write_bytes(b"no audio")
    assert run_in(tmp_path) == 2
    said = capsys.readouterr().err
    assert "no features of 2 clips" in said
    assert "one frame needs 465" in said
    assert [path.name for path in (tmp_path / "out").glob("*.npy")] == ["good.npy"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layer", "q"], "--layer must be z or c"),
        (["--layer", "3"], "--layer"),
        (["--split", "nothing"], "--split nothing"),
        (["--ext", "mp3"], "no file with the ending .mp3"),
        (["--max-size", "1000", "--context", "600"], "--max-size"),
        (["--format", "hdf"], "--format"),
        (["--use-feat", "--layer", "2"], "--use-feat"),
        (["--usefeat"], "did you mean --use-feat"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], message: str, serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {"a.wav": 2000})
    assert run_in(tmp_path, *flags) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]


def test_a_name_that_stands_for_two_clips_is_refused(
    serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(v1())
    write_clips(tmp_path / "in", {"a.wav": 2000, "a.flac.wav": 2000})
    soundfile.write(tmp_path / "in" / "a.flac", np.zeros(2000), 16000)
    assert run_in(tmp_path, "--ext", "wav,flac") == 2
    assert run_in(tmp_path) == 2  # all kinds of audio, so that none is left out without a word
    assert "would both become" in capsys.readouterr().err
