"""Positions by convolution: the same in float32 and bfloat16, however few channels a group has."""

from __future__ import annotations

import pytest
import torch

from w2v.modules.positional_conv import PositionalConv


@pytest.mark.parametrize(("channels", "groups", "kernel"), [(48, 4, 16), (128, 16, 128), (96, 4, 32), (64, 4, 15)])
def test_bfloat16_is_close_to_float32(channels: int, groups: int, kernel: int) -> None:
    generator = torch.Generator().manual_seed(1)
    conv = PositionalConv(channels, kernel, groups)
    x = torch.randn(2, 100, channels, generator=generator)
    with torch.no_grad():
        expected = conv(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = conv(x)
    assert (found.float() - expected).norm() < 0.02 * expected.norm()
