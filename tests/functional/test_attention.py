"""Attention with dropout against the plain formula under the same dropout mask, and against torch without dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from w2v.functional import attention
from w2v.functional.dropout import draw_signs, kept_share

DROPOUT = 0.3


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def part() -> Tensor:  # the layout that a linear layer leaves
        x = torch.randn(2, 23, 5 * 8, generator=generator).to(dtype)
        return x.unflatten(-1, (5, 8)).transpose(1, 2).detach().requires_grad_()

    return part(), part(), part(), torch.randn(2, 5, 23, 8, generator=generator).to(dtype)


def plain(query: Tensor, key: Tensor, value: Tensor, attend_to: Tensor | None, kept: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if attend_to is not None:
        scores = scores.masked_fill(~attend_to, -torch.inf)
    return (scores.softmax(dim=-1) * kept / kept_share(DROPOUT)) @ value


@pytest.mark.parametrize("heads_at_once", [1, 3, 10])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_plain_formula(heads_at_once: int, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_WEIGHTS_AT_ONCE", heads_at_once * 23 * 23)
    query, key, value, grad = inputs()
    attend_to = (torch.arange(23) < torch.tensor([23, 9])[:, None])[:, None, None] if masked else None
    torch.manual_seed(5)
    found = attention.attend(query, key, value, attend_to, dropout=DROPOUT)
    gradients = torch.autograd.grad(found, (query, key, value), grad)
    torch.manual_seed(5)
    pieces = [min(heads_at_once, 10 - first) for first in range(0, 10, heads_at_once)]
    kept = torch.cat([draw_signs((piece, 23, 23), DROPOUT) >= 0 for piece in pieces]).view(2, 5, 23, 23)
    wanted = plain(query, key, value, attend_to, kept)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients, torch.autograd.grad(wanted, (query, key, value), grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_differences() -> None:
    query, key, value, _ = (part.detach().double() for part in inputs())
    parts = [part[:1, :2, :5].clone().requires_grad_() for part in (query, key, value)]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(1)
        return attention.attend(query, key, value, None, dropout=DROPOUT)

    # The sum over keys is taken in float32, which bounds how exact the gradient can be.
    assert torch.autograd.gradcheck(attend, parts, atol=1e-5, rtol=1e-4, nondet_tol=0)


def test_bfloat16_is_near_float32() -> None:
    query, key, value, grad = inputs()
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(2)
        parts = [part.detach().to(dtype).requires_grad_() for part in (query, key, value)]
        found = attention.attend(*parts, None, dropout=DROPOUT)
        results.append([found, *torch.autograd.grad(found, parts, grad.to(dtype))])
    for exact, rounded in zip(*results, strict=True):
        assert (exact - rounded.float()).norm() / exact.norm() < 0.02


def test_without_dropout_is_torchs() -> None:
    query, key, value, _ = inputs()
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.equal(attention.attend(query, key, value, None), wanted)
