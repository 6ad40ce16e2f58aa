"""`--checkpoint-activations`: the same gradients, bit by bit, and less that is remembered for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.config import build_config
from w2v.models.base import MODELS

SMALL = {
    "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 2", "encoder_layers": 4, "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4, "conv_pos": 16, "conv_pos_groups": 2,
    "quantize_targets": True, "final_dim": 16, "latent_vars": 8, "dropout_input": 0.1, "encoder_layerdrop": 0.3,
}  # fmt: skip


def gradients(options: dict[str, Any], lengths: list[int] | None) -> tuple[Tensor, int]:
    """Return all gradients of a step with dropout, and how many bytes were kept for them."""
    torch.manual_seed(1)
    entry = MODELS.get("wav2vec2")
    model = entry.cls.build(build_config(entry.config, {**SMALL, **options}, "test")).train()
    source = torch.randn(3, 6000, generator=torch.Generator().manual_seed(1))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = (
            model(source, None if lengths is None else torch.tensor(lengths), 3).logits.clamp(min=-1e4).square().sum()
        )
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), sum(kept.values())


@pytest.mark.parametrize("precision", ["highest", "high"])  # convolutions as such, and as products clip by clip
@pytest.mark.parametrize("lengths", [None, [6000, 5000, 3000]])
@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_gradients_are_equal_and_less_is_kept(precision: str, lengths: list[int] | None, mode: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        wanted, whole = gradients({"extractor_mode": mode}, lengths)
        found, kept = gradients({"extractor_mode": mode, "checkpoint_activations": True}, lengths)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, wanted)
    assert kept < 0.4 * whole
