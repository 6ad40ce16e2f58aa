"""Linear layers of 8 bits against exact arithmetic on rounded numbers, and against the layer they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from w2v.errors import ConfigError
from w2v.inference.prepare import Int8Linear, to_int8


def make(in_features: int = 64, out_features: int = 40) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(in_features, out_features)


def test_is_the_product_of_rounded_numbers() -> None:
    linear = make()
    x = torch.randn(3, 7, 64)
    scale = x.abs().amax(-1, keepdim=True) / 127
    weight_scale = linear.weight.abs().amax(1) / 127
    weight = torch.round(linear.weight / weight_scale[:, None]).double()
    wanted = torch.round(x / scale).double() @ weight.T * scale * weight_scale + linear.bias
    torch.testing.assert_close(Int8Linear(linear)(x).double(), wanted, rtol=1e-5, atol=1e-6)


def test_is_near_the_layer() -> None:
    linear = make()
    x = torch.randn(50, 64)
    exact = linear(x)
    assert (Int8Linear(linear)(x) - exact).norm() / exact.norm() < 0.02


def test_a_frame_does_not_depend_on_its_neighbours() -> None:
    layer = Int8Linear(make())
    x = torch.randn(20, 64)
    x[3] *= 1000
    torch.testing.assert_close(layer(x)[5], layer(x[5:6].expand(20, -1))[0], rtol=0, atol=0)
    assert torch.equal(layer(torch.zeros(2, 64)), layer.bias.expand(2, -1))  # type: ignore[union-attr]


def test_replaces_the_blocks_alone() -> None:
    model = nn.ModuleDict({"proj": make(), "layers": nn.ModuleList([nn.Sequential(make(64, 64), make(64, 5))])})
    assert to_int8(model) == 1
    assert isinstance(model["proj"], nn.Linear)
    block = model["layers"][0]  # type: ignore[index]
    assert isinstance(block[0], Int8Linear)
    assert isinstance(block[1], nn.Linear)


def test_a_torch_that_multiplies_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch 2.4 does on a CPU without VNNI: pairs of products are added up in 16 bits."""
    right = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: right(a, b).clamp(-(2**15), 2**15 - 1))
    with pytest.raises(ConfigError, match=r"--int8: torch .* multiplies whole numbers wrongly on this CPU"):
        to_int8(torch.nn.Module())
    monkeypatch.undo()
    assert to_int8(torch.nn.Module()) == 0
