"""`w2v-featurize` on the checkpoint of a fine-tuned model, and runs that are killed and started again.

Oracles: the model called on one clip after another; a run that was never killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.checkpoint.file import save_checkpoint
from w2v.config import build_config, to_plain
from w2v.data.audio import normalize
from w2v.inference.feature_file import read_features
from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v_cli import featurize, tokenize

soundfile = pytest.importorskip("soundfile")

RATE = 16000
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "C"]
REPOSITORY = Path(__file__).resolve().parents[2]


def write_clips(folder: Path, lengths: list[int]) -> list[np.ndarray]:
    """Write clips of noise and `train.tsv` beside them."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    waves = []
    for number, length in enumerate(lengths):
        waves.append((0.1 * rng.normal(size=length) + 0.05).astype(np.float32))
        soundfile.write(folder / f"{number:03d}.wav", waves[-1], RATE, subtype="FLOAT")
    lines = [str(folder), *(f"{number:03d}.wav\t{length}" for number, length in enumerate(lengths))]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return waves


def save(path: Path, model: Any, arch: str, task: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint as `w2v-train` does."""
    config = {
        **{section: {} for section in ("common", "dataset", "distributed_training", "optimization", "checkpoint")},
        **{"criterion": {"_name": "wav2vec"}, "optimizer": {"_name": "adam"}, "lr_scheduler": {"_name": "fixed"}},
        "task": {"_name": "audio_pretraining", "data": "gone", **task},
        "model": {"_name": arch, **to_plain(model.config)},
    }
    save_checkpoint(path, {"config": config, "model": model.state_dict(), "task": state})


@pytest.fixture
def finetuned(tmp_path: Path) -> Wav2VecCtc:
    """Return a model whose checkpoint lies at `model.pt`; it was trained with `--normalize`."""
    torch.manual_seed(3)
    encoder = Wav2Vec2EncoderConfig(
        encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, conv_pos=8,
        conv_pos_groups=4, conv_feature_layers=((8, 10, 5), (8, 3, 4), (8, 3, 4)), extractor_mode="layer_norm",
    )  # fmt: skip
    model = Wav2VecCtc.build(Wav2VecCtcConfig(), num_classes=len(SYMBOLS), pretrained_config=encoder).eval()
    task = {"labels": "ltr", "normalize": True}
    save(tmp_path / "model.pt", model, "wav2vec_ctc", task, {"dictionary": SYMBOLS})
    return model


def expected_frames(model: Wav2VecCtc, layer: str, source: torch.Tensor) -> torch.Tensor:
    if layer == "c":
        return model.extract_features(source, None).features[0]
    encoder = model.w2v_encoder.w2v_model
    if layer == "z":
        return encoder.feature_extractor(source, None)[0]
    kept = []
    handle = encoder.encoder.layers[int(layer) - 1].register_forward_hook(lambda *call: kept.append(call[2]))
    model.extract_features(source, None)
    handle.remove()
    frames = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    return frames.reshape(-1, frames.shape[-1])


@pytest.mark.parametrize("layer", ["c", "z", "1", "2"])
def test_features_of_a_finetuned_model(layer: str, finetuned: Wav2VecCtc, tmp_path: Path) -> None:
    waves = write_clips(tmp_path / "in", [4000, 7000, 5500, 4000])
    flags = ["--model", str(tmp_path / "model.pt"), "--layer", layer, "--format", "npy", "--quiet", "--cpu"]
    assert featurize.main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *flags]) == 0
    for number, wave in enumerate(waves):
        with torch.no_grad():
            expected = expected_frames(finetuned, layer, torch.from_numpy(normalize(wave))[None])
        ours = read_features(tmp_path / "out" / f"{number:03d}.npy")
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_what_a_finetuned_model_does_not_have(
    finetuned: Wav2VecCtc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / "in", [4000])
    flags = ["--model", str(tmp_path / "model.pt"), "--format", "npy", "--cpu"]
    folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert featurize.main([*folders, *flags, "--layer", "3"]) == 2
    assert "--layer must be z, c or a number from 1 to 2" in capsys.readouterr().err
    folders = ["--data-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path / "tokens"), "--splits", "train"]
    assert tokenize.main([*folders, "--checkpoint", str(tmp_path / "model.pt"), "--cpu"]) == 2
    assert "no quantizer" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- killed runs


@pytest.fixture
def quantizing(tmp_path: Path) -> Path:
    """Return the checkpoint of a vq-wav2vec model."""
    torch.manual_seed(0)
    options = {
        "conv_feature_layers": "[(8, 10, 5), (8, 8, 4), (8, 4, 2), (8, 4, 2), (8, 4, 2)]",
        "conv_aggregator_layers": "[(8, 2, 1)]",
        "vq_type": "gumbel",
        "vq_vars": 6,
    }
    model = Wav2VecModel(build_config(Wav2VecConfig, options, "test"))
    save(tmp_path / "vq.pt", model, "wav2vec", {}, {})
    return tmp_path / "vq.pt"


def start(program: str, command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", f"w2v_cli.{program}", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(folder: Path, pattern: str, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, "the program ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_featurizer_goes_on_and_ends_with_the_same_files(quantizing: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "in", [16000 + 10 * number for number in range(300)])
    folders = ["-i", str(tmp_path / "in" / "train.tsv"), "--model", str(quantizing), "--format", "npy", "--cpu"]
    command = [*folders, "--max-tokens", "0", "--quiet", "-o"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start("featurize", [*command, str(killed)])
    wait_for(killed, "*.npy", 5, process)
    process.kill()
    process.wait()
    early = {path.name: path.stat().st_mtime_ns for path in killed.glob("*.npy")}
    assert 5 <= len(early) < 300

    assert featurize.main([*command, str(killed)]) == 0
    assert featurize.main([*command, str(whole)]) == 0
    names = sorted(path.name for path in whole.glob("*.npy"))
    assert len(names) == 300
    assert sorted(path.name for path in killed.glob("*.npy")) == names
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    for name, written in early.items():
        assert (killed / name).stat().st_mtime_ns == written


def test_a_killed_tokenizer_leaves_no_half_of_a_file(quantizing: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "in", [16000] * 200)
    command = ["--data-dir", str(tmp_path / "in"), "--splits", "train", "--checkpoint", str(quantizing), "--cpu"]
    output = tmp_path / "out"
    process = start("tokenize", [*command, "--output-dir", str(output)])
    wait_for(tmp_path, "out", 1, process)
    process.kill()
    process.wait()
    assert not list(output.glob("*"))
    assert tokenize.main([*command, "--quiet", "--output-dir", str(output)]) == 0
    assert len((output / "train.src").read_text().splitlines()) == 200
    assert {path.name for path in output.iterdir()} == {"train.src", "dict.txt"}
