"""The wav2vec example: its commands are commands of `w2v-train`, and its scripts do what they say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scripts import load_script

from w2v.models.wav2vec import Wav2VecConfig
from w2v.training.curves import Point
from w2v.training.options import parse_train_command
from w2v_cli.visualization.curves import curve_lines

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "wav2vec"


def load(name: str) -> ModuleType:
    return load_script(FOLDER / f"{name}.py")


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_commands_of_the_script(tmp_path: Path) -> None:
    # A stand-in that keeps its arguments, one per line, in a file per call.
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_in = programs / "w2v-train"
    stand_in.write_text('#!/bin/sh\nfor a in "$@"; do echo "$a"; done > "$3/arguments"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    script = ["sh", str(FOLDER / "train.sh"), str(tmp_path), str(tmp_path / "out"), "--max-update", "7"]
    subprocess.run(script, env=environment, check=True, capture_output=True)
    for name, vq_type in (("wav2vec", "none"), ("gumbel", "gumbel"), ("kmeans", "kmeans")):
        arguments = (tmp_path / "out" / name / "arguments").read_text().splitlines()
        config = parse_train_command(arguments).config
        model = config.model.config
        assert isinstance(model, Wav2VecConfig)
        assert model.vq_type == vq_type
        assert config.optimization.max_update == 7
        assert config.criterion.config.infonce


def test_ties_are_counted_apart() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.000001, 0.0], [0.0, 1.0, 2.0]])
    assert load("strict_accuracy").count(logits) == (1, 2, 4)


def test_a_tone_lies_in_its_mel_band(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    probe = load("digits_probe")
    filters = probe.mel_filters(512, 80, 8000)
    assert filters.shape == (80, 257)
    centers = filters.argmax(axis=1) * 16000 / 512
    for hertz in (500, 1500, 3000):
        soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16000), 16000)
        frames = probe.log_mel(tmp_path / "tone.wav", 80, 8000, floor=1e-6)
        assert frames.shape == (1 + (8000 - 400) // 160, 80)
        assert abs(centers[frames.mean(axis=0).argmax()] - hertz) < 0.06 * hertz + 16


def test_the_classifier_learns_what_can_be_learnt() -> None:
    probe = load("digits_probe")
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=300)
    persons = np.array(["a", "b", "c"])[rng.integers(3, size=300)]
    table = np.eye(4)[targets] + 0.1 * rng.normal(size=(300, 4))
    assert probe.unseen_accuracy(table, targets, persons, "b") > 0.98
    assert probe.unseen_accuracy(rng.normal(size=(300, 4)), targets, persons, "b") < 0.5


def test_the_loss_in_the_curves_is_without_penalties() -> None:
    points = [
        *(Point("gumbel", "train", name, 10, value) for name, value in (("loss", 3.0), ("loss_0", 2.0))),
        *(Point("wav2vec", "train", name, 10, value) for name, value in (("loss", 4.0), ("accuracy", 0.1))),
        Point("finetuned", "train", "loss", 10, 5.0),
    ]
    assert {line.label: line.y.tolist() for line in curve_lines(points, "loss_0")} == {
        "gumbel": [2.0],
        "wav2vec": [4.0],
    }
