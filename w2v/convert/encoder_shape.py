"""The structure of a wav2vec 2.0 encoder as far as the shapes of its tensors tell it.

Kernels, widths, layers and groups can be seen. Strides, attention heads and the order of norms cannot: they are those
of the published models, and a model of other sizes is not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

STRIDES = {(10, 3, 3, 3, 3, 2, 2): (5, 2, 2, 2, 2, 2, 2)}
"""Kernels of the published feature extractor, and their strides."""
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
"""Widths of the published encoders (BASE, LARGE, XLS-R 1B and 2B), and their attention heads."""


def infer_encoder(state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Any] | None, str]:
    """Return the options of an encoder, or None and the reason why they cannot be told.

    Args:
        state: tensors by name.
        prefix: what the names of the encoder's tensors begin with.
    """
    shapes = {name.removeprefix(prefix): tuple(t.shape) for name, t in state.items() if name.startswith(prefix)}
    convolutions = _rows(shapes, r"feature_extractor\.conv_layers\.(\d+)\.0\.weight")
    layers = _rows(shapes, r"encoder\.layers\.(\d+)\.fc1\.weight")
    positions = shapes.get("encoder.pos_conv.0.weight_v")
    if not convolutions or not layers or positions is None:
        return None, "it holds no wav2vec 2.0 encoder"
    kernels = tuple(shape[-1] for shape in convolutions)
    width = positions[0]
    if kernels not in STRIDES:
        return None, f"the strides of convolutions of widths {kernels} are not known"
    if width not in HEADS:
        return None, f"the number of attention heads at width {width} is not known"
    is_layer_norm = "feature_extractor.conv_layers.0.2.1.weight" in shapes
    convs = [[shape[0], shape[2], stride] for shape, stride in zip(convolutions, STRIDES[kernels], strict=True)]
    return {
        "_name": "wav2vec2",
        "extractor_mode": "layer_norm" if is_layer_norm else "default",
        "layer_norm_first": is_layer_norm,
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in shapes,
        "conv_feature_layers": convs,
        "encoder_layers": len(layers),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": layers[0][0],
        "encoder_attention_heads": HEADS[width],
        "conv_pos": positions[2],
        "conv_pos_groups": width // positions[1],
    }, ""


def _rows(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> list[tuple[int, ...]]:
    found = {int(match[1]): shape for name, shape in shapes.items() if (match := re.fullmatch(pattern, name))}
    return [found[number] for number in sorted(found)]
