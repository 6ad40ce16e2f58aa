"""Oracles: token files recorded from the original, and the quantizer called on one clip at a time."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from w2v.config import build_config
from w2v.data.binarized_file import read_token_file
from w2v.data.dictionary import Dictionary
from w2v.models.base import W2vModel
from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel
from w2v.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from w2v_cli.tokenize import main

TINY = {
    "conv_feature_layers": "[(8, 10, 5), (8, 8, 4), (8, 4, 2), (8, 4, 2), (8, 4, 2)]",
    "conv_aggregator_layers": "[(8, 2, 1)]",
    "vq_type": "gumbel",
    "vq_vars": 6,
}
TINY_2 = {
    "conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2",
    "encoder_layers": 1,
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
def serve(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that makes every checkpoint mean the model it is given."""

    def serve(model: W2vModel) -> None:
        task = SimpleNamespace(config=SimpleNamespace(sample_rate=16000, normalize=False, normalize_epsilon=1e-5))
        loaded = SimpleNamespace(model=model, task=task, config={})
        monkeypatch.setattr("w2v_cli.tokenize.load_model", lambda path, **_: loaded)

    return serve


def v1(**changes: Any) -> Wav2VecModel:
    torch.manual_seed(0)
    return Wav2VecModel(build_config(Wav2VecConfig, {**TINY, **changes}, "test")).eval()


def write_split(tmp_path: Path, lengths: dict[str, int], split: str = "train") -> None:
    rng = np.random.default_rng(3)
    root = tmp_path / "audio" / split
    root.mkdir(parents=True, exist_ok=True)
    for name, length in lengths.items():
        soundfile.write(root / name, 0.1 * rng.normal(size=length), 16000, subtype="FLOAT")
    lines = [str(root), *(f"{name}\t{length}" for name, length in lengths.items())]
    (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def run_in(tmp_path: Path, *flags: str, splits: tuple[str, ...] = ("train",)) -> int:
    folders = ["--data-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    return main(["--checkpoint", "model.pt", *folders, "--splits", *splits, *flags])


@pytest.mark.parametrize(
    ("folder", "name", "flags"),
    [
        ("out_vq_gumbel", "vq_gumbel", []),
        ("out_vq_kmeans", "vq_kmeans", []),
        ("out_vq_gumbel_maxsize", "vq_gumbel", ["--max-size", "20000", "--shard", "0", "--num-shards", "2"]),
    ],
)
def test_files_of_the_original(
    golden: Path, folder: str, name: str, flags: list[str], serve: Load, tmp_path: Path
) -> None:
    recorded = golden / "featurize" / folder
    checkpoint_path = golden / "checkpoints" / "g1_args" / f"{name}.pt"
    if not recorded.is_dir() or not checkpoint_path.is_file():
        pytest.skip(f"no {recorded} or no {checkpoint_path}")
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(checkpoint_path, weights_only=True)
    model = Wav2VecModel.build_model(checkpoint["args"], task=None)
    model.load_state_dict(checkpoint["model"])
    serve(model)
    splits = tuple(sorted({path.name.split(".")[0] for path in recorded.iterdir()}))
    for split in splits:
        # The first line of the recorded manifests is a folder of the machine they were made on.
        lines = (golden / "featurize" / "man" / f"{split}.tsv").read_text().splitlines()
        root = golden / "featurize" / "in" / split
        (tmp_path / f"{split}.tsv").write_text("\n".join([str(root), *lines[1:]]) + "\n")
    assert run_in(tmp_path, "--extension", "tsv", *flags, splits=splits) == 0
    for path in recorded.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["gumbel", "kmeans", "wav2vec2"])
def test_lines_are_the_codes_of_single_clips_in_order(kind: str, serve: Load, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any
    if kind == "wav2vec2":
        model = Wav2Vec2Model(build_config(Wav2Vec2Config, TINY_2, "test")).eval()
    else:
        model = v1(vq_type=kind)
    serve(model)
    lengths = {"b.wav": 2500, "a.wav": 4000, "short.wav": 100, "c.wav": 2500}
    write_split(tmp_path, lengths)
    assert run_in(tmp_path) == 0
    lines = (tmp_path / "out" / "train.src").read_text().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(lengths)
    for name, line in zip(lengths, lines, strict=True):
        samples, _ = soundfile.read(tmp_path / "audio" / "train" / name, dtype="float32")
        source = torch.from_numpy(samples)[None]
        if len(samples) < 465 and kind != "wav2vec2":
            assert line == ""
            continue
        if kind == "wav2vec2":
            if len(samples) < 400:
                assert line == ""
                continue
            with torch.no_grad():
                codes = model.quantizer(model.layer_norm(model.feature_extractor(source, None))).codes[0]
        else:
            codes = model.vector_quantizer.forward_idx(model.feature_extractor(source))[1][0]
        assert line == " ".join("-".join(str(code) for code in frame) for frame in codes.tolist())


def test_shards_make_the_whole_and_its_dictionary(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_split(tmp_path, {f"{number}.wav": 2000 + 200 * number for number in range(7)})
    assert run_in(tmp_path) == 0
    whole = (tmp_path / "out" / "train.src").read_text().splitlines()
    dictionary = (tmp_path / "out" / "dict.txt").read_text()
    (tmp_path / "out" / "dict.txt").unlink()
    for shard in (2, 0, 1):
        assert not (tmp_path / "out" / "dict.txt").exists()
        assert run_in(tmp_path, "--num-shards", "3", "--shard", str(shard)) == 0
        part = (tmp_path / "out" / f"train.src.{shard}").read_text().splitlines()
        assert part == whole[shard::3]
    assert (tmp_path / "out" / "dict.txt").read_text() == dictionary


def test_dictionary_counts_tokens_and_covers_the_training_split(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_split(tmp_path, {"a.wav": 4000, "b.wav": 6000})
    write_split(tmp_path, {"c.wav": 3000}, "valid")
    assert run_in(tmp_path, splits=("train", "valid")) == 0
    lines = (tmp_path / "out" / "train.src").read_text().splitlines()
    counts = Counter(token for line in lines for token in line.split())
    written = [line.split() for line in (tmp_path / "out" / "dict.txt").read_text().splitlines()]
    # Filled up to a multiple of eight, the four special symbols counted.
    fillers = [f"madeupword{number:04d}" for number in range(-(len(counts) + 4) % 8)]
    assert {token: int(count) for token, count in written} == {**counts, **dict.fromkeys(fillers, 0)}
    assert [int(count) for _, count in written] == sorted([*counts.values(), *[0] * len(fillers)], reverse=True)
    dictionary = Dictionary.from_file(tmp_path / "out" / "dict.txt")
    for line in lines:
        assert dictionary.string(dictionary.encode(line)) == line


def test_files_of_fairseq_preprocess_and_a_smaller_dictionary(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_split(tmp_path, {"a.wav": 4000, "b.wav": 6000})
    write_split(tmp_path, {"c.wav": 3000}, "valid")
    flags = ["--dataset-impl", "mmap", "--nwordssrc", "8", "--padding-factor", "1"]
    assert run_in(tmp_path, *flags, splits=("train", "valid")) == 0
    output = tmp_path / "out"
    dictionary = Dictionary.from_file(output / "dict.txt")
    assert len(dictionary) == 8
    for split in ("train", "valid"):
        found = read_token_file(output / split)
        lines = (output / f"{split}.src").read_text().splitlines()
        assert len(found) == len(lines)
        for row, line in enumerate(lines):
            assert found.sentence(row).tolist() == [*dictionary.encode(line), dictionary.eos]
    assert run_in(tmp_path, "--dataset-impl", "mmap", "--no-dict") == 2
    assert run_in(tmp_path, "--dataset-impl", "mmap", "--no-dict", "--srcdict", str(output / "dict.txt")) == 0


def test_counts_of_used_codes_are_reported(serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve(v1())
    write_split(tmp_path, {"a.wav": 8000})
    assert run_in(tmp_path) == 0
    frames = [token.split("-") for token in (tmp_path / "out" / "train.src").read_text().split()]
    said = capsys.readouterr().err
    for group in range(2):
        assert f"group {group}: {len({frame[group] for frame in frames})} of 6 codes in use" in said


def test_labels_follow_the_clips(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_split(tmp_path, {"b.wav": 2000, "a.wav": 3000, "c.wav": 2500})
    for name in "abc":
        (tmp_path / "audio" / "train" / f"{name}.txt").write_text(f"text of {name}\nmore\n")
    (tmp_path / "all.lbl").write_text("B\nA\nC\n")
    assert run_in(tmp_path, "--labels", "txt") == 0
    assert (tmp_path / "out" / "train.lbl").read_text() == "text of b\ntext of a\ntext of c\n"
    assert run_in(tmp_path, "--labels", str(tmp_path / "all.lbl"), "--num-shards", "2", "--shard", "0") == 0
    assert (tmp_path / "out" / "train.lbl.0").read_text() == "B\nC\n"
    (tmp_path / "all.lbl").write_text("B\n")
    assert run_in(tmp_path, "--labels", str(tmp_path / "all.lbl")) == 2


def test_folders_are_read_in_the_order_of_their_names(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_split(tmp_path, {"b.wav": 2500, "a.wav": 4000})
    (tmp_path / "audio" / "train" / "notes.txt").write_text("no audio")
    flags = ["--checkpoint", "model.pt", "--data-dir", str(tmp_path / "audio"), "--output-dir", str(tmp_path / "out")]
    assert main([*flags, "--splits", "train", "--extension", "wav", "--data-parallel", "--log-format", "none"]) == 0
    lines = (tmp_path / "out" / "train.src").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [(4000 - 465) // 160 + 1, (2500 - 465) // 160 + 1]


def test_two_runs_write_the_same(serve: Load, tmp_path: Path) -> None:
    serve(v1())
    write_split(tmp_path, {f"{number}.wav": 2000 + 37 * number for number in range(9)})
    assert run_in(tmp_path) == 0
    first = (tmp_path / "out" / "train.src").read_bytes()
    torch.manual_seed(77)
    assert run_in(tmp_path, "--num-workers", "4") == 0
    assert (tmp_path / "out" / "train.src").read_bytes() == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "0"], "--shard and --num-shards"),
        (["--shard", "2", "--num-shards", "2"], "--shard must be below"),
        (["--extension", "wav"], "no folder"),
        (["--labels", "lbl"], "cannot read the label file"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], message: str, serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(v1())
    write_split(tmp_path, {"a.wav": 2000})
    assert run_in(tmp_path, *flags) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_model_without_quantizer_and_an_unreadable_clip(
    serve: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path, {"a.wav": 2000})
    serve(v1(vq_type="none"))
    assert run_in(tmp_path) == 2
    assert "no quantizer" in capsys.readouterr().err
    serve(v1())
    write_split(tmp_path, {"a.wav": 2000, "b.wav": 2000, "c.wav": 2000})
    (tmp_path / "audio" / "train" / "b.wav").write_bytes(b"no audio")
    assert run_in(tmp_path) == 2
    assert "no tokens of 1 clips, whose lines are empty; the first:" in capsys.readouterr().err.splitlines()[-1]
    first, second, third, end = (tmp_path / "out" / "train.src").read_text().split("\n")
    assert first
    assert not second
    assert third
    assert not end
