"""A tiny model of every kind that reads audio, the one of `examples/plugin` among them, for tests of what all share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from w2v.config import build_config
from w2v.models import MODELS, W2vModel

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin" / "my_speech" / "shallow.py"
CONV = "[(16, 10, 5), (16, 8, 4), (16, 4, 2)]"  # a frame is 40 samples, and sees 105
WAV2VEC: dict[str, Any] = {
    "conv_feature_layers": CONV, "conv_aggregator_layers": "[(16, 2, 1), (16, 3, 1)]", "prediction_steps": 3,
    "num_negatives": 4, "skip_connections_agg": True, "log_compression": True, "vq_vars": 6,
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "conv_feature_layers": CONV, "encoder_layers": 3, "encoder_embed_dim": 24, "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2, "conv_pos": 8, "conv_pos_groups": 4, "latent_vars": 6, "final_dim": 12,
}  # fmt: skip
LAYER_NORM = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
PRETRAINING = {"num_negatives": 5, "mask_length": 3, "quantize_targets": True}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec": ("wav2vec", WAV2VEC),
    "wav2vec_gru": ("wav2vec", {**WAV2VEC, "aggregator": "gru", "gru_dim": 12, "project_features": "none"}),
    "vq_kmeans": ("wav2vec", {**WAV2VEC, "vq_type": "kmeans"}),
    "vq_gumbel": ("wav2vec", {**WAV2VEC, "vq_type": "gumbel", "vq_depth": 2}),
    "wav2vec2": ("wav2vec2", {**ENCODER, **PRETRAINING}),
    "wav2vec2_layer_norm": ("wav2vec2", {**ENCODER, **PRETRAINING, **LAYER_NORM}),
    "wav2vec2_quantized_input": ("wav2vec2", {**ENCODER, **PRETRAINING, "quantize_input": True}),
    "wav2vec2_encoder": ("wav2vec2_encoder", ENCODER),
    "wav2vec_ctc": ("wav2vec_ctc", {"w2v_args": {**ENCODER, "_name": "wav2vec2"}, "feature_grad_mult": 1.0}),
    "wav2vec_ctc_layer_norm": (
        "wav2vec_ctc",
        {"w2v_args": {**ENCODER, **LAYER_NORM, "_name": "wav2vec2"}, "feature_grad_mult": 1.0},
    ),
    "hubert": ("hubert", {**ENCODER, "mask_length": 3, "num_classes": [7, 5]}),
    "plugin": ("wav2vec2_shallow", {"conv_feature_layers": CONV, "context_dim": 12, "mask_length": 3}),
}
NAMES = tuple(KINDS)
QUIET = {"dropout": 0.0, "attention_dropout": 0.0}  # without them a forward pass in training repeats


def make(name: str, **changes: Any) -> W2vModel:
    """Build a model of `KINDS` with seed 0, in evaluation mode, without dropout."""
    arch, options = KINDS[name]
    if name == "plugin":
        with MODELS.temporary():
            entry = _plugin(arch)
    else:
        entry = MODELS.get(arch)
    known = {key: value for key, value in QUIET.items() if hasattr(entry.config, key)}
    torch.manual_seed(0)
    config = build_config(entry.config, {**known, **options, **changes}, "test")
    context = {"num_classes": 7} if arch == "wav2vec_ctc" else {}
    return entry.cls.build(config, **context).eval()


def _plugin(arch: str) -> Any:
    """Return the registry's entry of the shipped plugin, which is forgotten again."""
    specification = importlib.util.spec_from_file_location("shallow_of_tests", PLUGIN)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # pickle looks classes up there
    specification.loader.exec_module(module)
    return MODELS.get(arch)


def clips(lengths: list[int], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of these lengths, padded with zeros, and the lengths."""
    source = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        source[row, :length] = torch.randn(length, generator=torch.Generator().manual_seed(seed * 100 + row))
    return source, torch.tensor(lengths)
