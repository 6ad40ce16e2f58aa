"""Convolutions and norms in (B, T, C) layout against torch's own in (B, C, T)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.functional.padding import group_norm
from w2v.functional.strided_conv import prefers_products, strided_conv
from w2v.functional.time_norm import norm_over_time


@settings(max_examples=120)
@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 20),
    st.sampled_from([1, 40]),
    st.booleans(),
    st.booleans(),
)
def test_convolution(
    clips: int, kernel: int, stride: int, more: int, channels: int, has_bias: bool, gelu_first: bool
) -> None:
    generator = torch.Generator().manual_seed(kernel * 100 + stride)
    x = torch.randn(clips, kernel + more, channels, generator=generator, requires_grad=True)
    weight = torch.randn(5, channels, kernel, generator=generator, requires_grad=True)
    bias = torch.randn(5, generator=generator, requires_grad=True) if has_bias else None
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    before = F.gelu(doubles[0]) if gelu_first else doubles[0]
    expected = F.conv1d(before.transpose(1, 2), *doubles[1:], stride=stride).transpose(1, 2)
    result = strided_conv(x, weight, bias, stride, gelu_first=gelu_first)
    # Rounding grows with the sum of magnitudes, which up to 240 products of either sign may cancel: 8 units of 2^-24.
    # Of the input, since GELU of a negative number cancels itself.
    magnitudes = F.conv1d(
        doubles[0].abs().transpose(1, 2), *(tensor.abs() for tensor in doubles[1:]), stride=stride
    ).transpose(1, 2)
    assert bool(((result.double() - expected).abs() <= 1e-6 * expected.abs() + 8 * 2**-24 * magnitudes).all())
    upstream = torch.randn(result.shape, generator=generator)
    found = torch.autograd.grad((result * upstream).sum(), inputs)
    wanted = torch.autograd.grad((expected * upstream.double()).sum(), doubles)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_norm_over_time(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(4, 300, 6, generator=generator) + offset).requires_grad_()
    weight, bias = (torch.randn(6, generator=generator, requires_grad=True) for _ in range(2))
    lengths = torch.tensor([300, 70, 1, 0])
    doubles = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    expected = group_norm(doubles[0].transpose(1, 2), lengths, 6, *doubles[1:]).transpose(1, 2)
    result = norm_over_time(x, lengths, weight, bias)
    tolerance = 1e-5 if offset == 0 else 1e-3  # float32 holds an offset of 100 to 4e-6
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    upstream = torch.randn(x.shape, generator=generator)
    # A clip of one frame has no spread: its gradient is rounding times 1 / sqrt(eps).
    upstream[2] = 0
    found = torch.autograd.grad((result * upstream).sum(), (x, weight, bias))
    wanted = torch.autograd.grad((expected * upstream.double()).sum(), doubles)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=10 * tolerance, atol=10 * tolerance)
    plain = norm_over_time(x, None, None, None)
    wanted_plain = group_norm(doubles[0].transpose(1, 2), None, 6, None, None).transpose(1, 2)
    torch.testing.assert_close(plain.double(), wanted_plain, rtol=tolerance, atol=tolerance)


def test_float32_is_exact_unless_asked_otherwise() -> None:
    x = torch.zeros(1)
    torch.set_float32_matmul_precision("highest")  # torch's default, whatever ran before in this process
    assert not prefers_products(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prefers_products(x)
    torch.set_float32_matmul_precision("high")
    try:
        assert prefers_products(x)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert not prefers_products(torch.zeros(1, device="meta"))
