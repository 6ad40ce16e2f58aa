"""The context network against torch's own attention, weight norm and encoder layer."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from w2v.modules.multihead_attention import MultiheadAttention
from w2v.modules.positional_conv import PositionalConv
from w2v.modules.transformer_encoder import TransformerEncoder, TransformerSpec
from w2v.modules.transformer_layer import ACTIVATIONS, TransformerLayer
from w2v.rng import numpy_generator

SPEC = TransformerSpec(
    layers=6,
    embed_dim=16,
    ffn_embed_dim=24,
    attention_heads=4,
    activation_fn="gelu",
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    layer_norm_first=False,
    layerdrop=0.0,
    conv_pos=8,
    conv_pos_groups=4,
)


def test_attention_equals_torchs() -> None:
    ours = MultiheadAttention(16, 4, 0.0)
    x, padding = torch.randn(3, 7, 16), torch.arange(7)[None] >= torch.tensor([7, 4, 1])[:, None]
    theirs, _ = F.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3, 16, 4, None,
        torch.cat([ours.q_proj.bias, ours.k_proj.bias, ours.v_proj.bias]), None, None, False, 0.0,
        ours.out_proj.weight, ours.out_proj.bias, key_padding_mask=padding, use_separate_proj_weight=True,
        q_proj_weight=ours.q_proj.weight, k_proj_weight=ours.k_proj.weight, v_proj_weight=ours.v_proj.weight,
    )  # fmt: skip
    torch.testing.assert_close(ours(x, ~padding[:, None, None]), theirs.transpose(0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [5, 8])
def test_positional_conv_equals_torchs_weight_norm(kernel: int) -> None:
    ours = PositionalConv(16, kernel, 4)
    conv = torch.nn.Conv1d(16, 16, kernel, padding=kernel // 2, groups=4)
    torch.nn.utils.parametrizations.weight_norm(conv, dim=2)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        conv.parametrizations.weight.original0.copy_(ours.weight_g)  # type: ignore[union-attr,operator]
        conv.parametrizations.weight.original1.copy_(ours.weight_v)  # type: ignore[union-attr,operator]
        conv.bias.copy_(ours.bias)  # type: ignore[union-attr]
    x = torch.randn(2, 11, 16)
    expected = F.gelu(conv(x.transpose(1, 2))[:, :, :11]).transpose(1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


def test_positional_conv_starts_with_unit_gain() -> None:
    module = PositionalConv(64, 32, 4)
    weight = torch._weight_norm(module.weight_v, module.weight_g, 2)
    torch.testing.assert_close(weight, module.weight_v)
    assert module.weight_v.std().item() == pytest.approx((4 / (32 * 64)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_layer_equals_torchs(layer_norm_first: bool) -> None:
    ours = TransformerLayer(dataclasses.replace(SPEC, layer_norm_first=layer_norm_first))
    theirs = torch.nn.TransformerEncoderLayer(
        16, 4, 24, 0.0, activation=F.gelu, batch_first=True, norm_first=layer_norm_first
    )
    state = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(state)
    projections = [f"self_attn.{p}_proj" for p in "qkv"]
    renamed = {
        "self_attn.in_proj_weight": torch.cat([state[f"{p}.weight"] for p in projections]),
        "self_attn.in_proj_bias": torch.cat([state[f"{p}.bias"] for p in projections]),
    }
    pairs = {
        "self_attn.out_proj": "self_attn.out_proj", "fc1": "linear1", "fc2": "linear2",
        "self_attn_layer_norm": "norm1", "final_layer_norm": "norm2",
    }  # fmt: skip
    for mine, other in pairs.items():
        renamed.update({f"{other}.{part}": state[f"{mine}.{part}"] for part in ("weight", "bias")})
    theirs.load_state_dict(renamed)
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x, None), theirs(x), rtol=1e-5, atol=1e-5)


def test_layerdrop_follows_updates_alone() -> None:
    encoder = TransformerEncoder(dataclasses.replace(SPEC, layerdrop=0.5))
    twin = TransformerEncoder(encoder.spec)
    kept = []
    for update in range(40):
        encoder.set_num_updates(update)
        twin.set_num_updates(update)
        torch.manual_seed(update)
        numpy_generator(update).random()
        assert encoder._kept_layers() == twin._kept_layers() == encoder._kept_layers()
        kept.append(encoder._kept_layers())
    assert sum(map(sum, kept)) / (40 * 6) == pytest.approx(0.5, abs=0.15)
    assert encoder.eval()._kept_layers() == [True] * 6


def test_dropped_layers_change_nothing_and_get_zero_gradients() -> None:
    encoder = TransformerEncoder(dataclasses.replace(SPEC, layerdrop=0.5))
    encoder.set_num_updates(3)
    kept = encoder._kept_layers()
    assert 0 < sum(kept) < 6
    x = torch.randn(2, 5, 16)
    result, layers = encoder(x, None, with_layers=True)
    for i, is_kept in enumerate(kept[1:], start=1):
        assert torch.equal(layers[i], layers[i - 1]) == (not is_kept)
    result.square().sum().backward()
    for layer, is_kept in zip(encoder.layers, kept, strict=True):
        for parameter in layer.parameters():
            assert parameter.grad is not None
        weight = layer.fc1.weight.grad  # type: ignore[union-attr]
        assert bool(weight.any()) == is_kept  # type: ignore[union-attr,operator]


def test_a_clip_without_frames_gives_no_nan() -> None:
    encoder = TransformerEncoder(SPEC)
    x = torch.randn(2, 5, 16, requires_grad=True)
    result, _ = encoder(x, torch.tensor([5, 0]))
    assert torch.isfinite(result).all()
    result.sum().backward()
    assert torch.isfinite(x.grad).all()  # type: ignore[arg-type]


def test_activations() -> None:
    x = torch.linspace(-3, 3, 50)
    cubic = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(ACTIVATIONS["gelu_accurate"](x), cubic)
    torch.testing.assert_close(ACTIVATIONS["gelu_fast"](x), cubic)
    torch.testing.assert_close(ACTIVATIONS["gelu"](x), x * 0.5 * (1 + torch.erf(x / 2**0.5)))
    assert ACTIVATIONS["linear"](x) is x
