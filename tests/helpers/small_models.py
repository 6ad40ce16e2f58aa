"""One small model of every family, and its trainer: options of `w2v-train`, for speech of `toy_speech`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from toy_speech import CONV, pretraining

from w2v.training.build import build_trainer
from w2v.training.options import parse_train_command
from w2v.training.trainer import Trainer

WAV2VEC = [
    "--arch", "wav2vec", "--criterion", "wav2vec", "--infonce", "--num-negatives", 5, "--cross-sample-negatives", 5,
    "--prediction-steps", 3, "--conv-feature-layers", "[(16, 10, 5), (16, 8, 4), (16, 4, 4)]", "--skip-connections-agg",
    "--conv-aggregator-layers", "[(16, 2, 1), (16, 3, 1)]", "--vq-vars", 8, "--loss-weights", "[1]",
    "--max-sample-size", 12000, "--project-features", "new",
]  # fmt: skip
NO_DROPOUT = ["--dropout", 0, "--attention-dropout", 0]
TINY = [
    *("--encoder-layers", 2, "--encoder-embed-dim", 16, "--encoder-ffn-embed-dim", 32, "--final-dim", 8),
    *("--cross-sample-negatives", 5, "--latent-vars", 4),
]
ENCODER = {
    "conv_feature_layers": CONV, "encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 4, "conv_pos": 16, "conv_pos_groups": 4,
}  # fmt: skip
CTC = ["--arch", "wav2vec_ctc", "--criterion", "ctc", "--labels", "ltr", "--w2v-args", json.dumps(ENCODER),
       "--feature-grad-mult", 1, "--apply-mask"]  # fmt: skip
HUBERT = [
    "--task", "hubert_pretraining", "--arch", "hubert", "--criterion", "hubert", "--labels", "km", "--label-rate", 100,
    "--loss-weights", "[10]", "--max-sample-size", 12000, "--random-crop", "--mask-length", 3, "--final-dim", 8,
    "--conv-feature-layers", CONV, *(item for name in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    for item in ("--encoder-" + name.replace("_", "-"), ENCODER[f"encoder_{name}"])), "--conv-pos", 16,
    "--conv-pos-groups", 4,
]  # fmt: skip
KINDS: dict[str, list[Any]] = {
    "wav2vec": WAV2VEC,
    "gumbel": [*WAV2VEC, "--vq-type", "gumbel"],
    "kmeans": [*WAV2VEC, "--vq-type", "kmeans", "--enable-padding"],
    "wav2vec2": [*TINY, *NO_DROPOUT],
    "wav2vec2_padded": [*TINY, *NO_DROPOUT, "--enable-padding", "--extractor-mode", "default"],
    "ctc": CTC,
    "hubert": [*HUBERT, *NO_DROPOUT],
    "hubert_padded": [*HUBERT, *NO_DROPOUT, "--pad-audio", "--extractor-mode", "layer_norm"],
}


def small_trainer(options: list[Any], data: Path, folder: Path, device: torch.device, *more: Any) -> Trainer:
    """Build the trainer of options such as those of `KINDS`; without `--arch` they are wav2vec 2.0's."""
    if "--arch" in options:
        command = [data, "--optimizer", "adam", *options, *more, "--save-dir", folder, "--num-workers", 0, "--cpu",
                   "--lr", 0.001]  # fmt: skip
    else:
        command = pretraining(data, folder, *options, *more)
    return build_trainer(parse_train_command([str(item) for item in command]).config, device)
