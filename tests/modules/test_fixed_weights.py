"""Fixing weights for inference changes no number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from w2v.config import build_config
from w2v.inference.prepare import cast_weights, to_int8
from w2v.models.base import MODELS

ENCODER = {
    "_name": "wav2vec2", "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 2", "encoder_layers": 2,
    "encoder_embed_dim": 64, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4, "conv_pos": 16,
    "quantize_targets": True,
}  # fmt: skip


@pytest.mark.parametrize("half", [None, torch.bfloat16])
@pytest.mark.parametrize("groups", [2, 16])  # with few channels per group, positions stay in float32
@pytest.mark.parametrize("is_int8", [False, True])
def test_outputs_stay_the_same(half: torch.dtype | None, groups: int, is_int8: bool) -> None:
    torch.manual_seed(1)
    entry = MODELS.get("wav2vec_ctc")
    config = build_config(entry.config, {"w2v_args": {**ENCODER, "conv_pos_groups": groups}}, "test")
    model = entry.cls.build(config, num_classes=9).eval()
    if is_int8:
        to_int8(model)
    source = torch.randn(2, 6000)

    def outputs() -> list[torch.Tensor]:
        with torch.inference_mode(), torch.autocast("cpu", half, enabled=half is not None):
            return [model(source, lengths, 1).logits for lengths in (None, torch.tensor([6000, 4000]))]

    names = model.state_dict().keys()
    before = outputs()
    cast_weights(model, half)
    assert all(torch.equal(found, wanted) for found, wanted in zip(outputs(), before, strict=True))
    assert model.state_dict().keys() == names
    if half is not None and not is_int8:
        assert {m.weight.dtype for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d))} == {half}
