"""A wav2vec 2.0 model small enough to be computed in milliseconds, with every part of the published ones."""

from __future__ import annotations

from typing import Any

import torch

from w2v.config import build_config
from w2v.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

MODES = {"default": {}, "layer_norm": dict(extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True)}
TINY: dict[str, Any] = dict(
    encoder_layers=2,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=32,
    encoder_attention_heads=2,
    conv_feature_layers="[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2",
    conv_pos=8,
    conv_pos_groups=4,
    final_dim=12,
    latent_vars=6,
    quantize_targets=True,
)


def tiny_wav2vec2(**options: Any) -> Wav2Vec2Model:
    """Return the model with random weights, the same ones at every call."""
    torch.manual_seed(0)
    model = Wav2Vec2Model.build(build_config(Wav2Vec2Config, {**TINY, **options}, "test"))
    assert isinstance(model, Wav2Vec2Model)
    return model
