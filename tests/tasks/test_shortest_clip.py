"""Clips too short for the model to learn from are left out of training; the model says how short that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2v.config import build_config
from w2v.errors import ConfigError
from w2v.models.base import MODELS, W2vModel
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

soundfile = pytest.importorskip("soundfile")

TINY: dict[str, dict[str, Any]] = {
    "wav2vec": {
        "conv_feature_layers": "[(8, 10, 5), (8, 8, 4)] + [(8, 4, 2)] * 3",
        "conv_aggregator_layers": "[(8, 2, 1)]",
    },
    "wav2vec2": {
        "conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2",
        "encoder_layers": 1,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 16,
        "encoder_attention_heads": 2,
        "conv_pos": 8,
        "conv_pos_groups": 2,
    },
}
# 465 samples for a frame, 160 more for each of the three up to the first target; 400 for a frame.
SHORTEST = {"wav2vec": 465 + 3 * 160, "wav2vec2": 400}


def task_and_model(folder: Path, arch: str, **options: Any) -> tuple[AudioPretrainingTask, W2vModel]:
    task = AudioPretrainingTask(build_config(AudioPretrainingConfig, {"data": str(folder), **options}, "test"))
    entry = MODELS.get(arch)
    return task, task.build_model(entry, build_config(entry.config, TINY[arch], "test"))


@pytest.mark.parametrize("arch", list(SHORTEST))
def test_what_the_model_cannot_learn_from_is_left_out(arch: str, tmp_path: Path) -> None:
    shortest = SHORTEST[arch]
    lengths = [shortest - 1, shortest, 100, 3000]
    for number, length in enumerate(lengths):
        samples = np.random.default_rng(number).normal(size=length) * 0.1
        soundfile.write(tmp_path / f"{number}.wav", samples, 16000, subtype="FLOAT")
    lines = [str(tmp_path), *(f"{number}.wav\t{length}" for number, length in enumerate(lengths))]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    task, model = task_and_model(tmp_path, arch)
    assert model.shortest_clip == shortest
    dataset = task.load_dataset("train")
    assert dataset.sizes.tolist() == [shortest, 3000]
    assert dataset.num_too_short == 2


def test_crops_must_not_be_shorter_than_that(tmp_path: Path) -> None:
    task, _ = task_and_model(tmp_path, "wav2vec", max_sample_size=944)
    with pytest.raises(ConfigError, match="--max-sample-size must be at least 945"):
        task.load_dataset("train")
