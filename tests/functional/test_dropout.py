"""Dropout: shares, scale, gradient, and the generator that it draws from."""

from __future__ import annotations

import math

import pytest
import torch

from w2v.functional.dropout import Dropout, draw_signs, dropout, kept_share


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_drops_the_share_that_was_asked_for(p: float) -> None:
    torch.manual_seed(1)
    n = 200_003
    kept = draw_signs((n,), p) >= 0
    error = math.sqrt(p * (1 - p) / n)
    assert abs(kept.float().mean().item() - (1 - p)) < 5 * error
    # Neighbours share one draw of 64 bits and must not depend on one another.
    together = (kept[:-1] & kept[1:]).float().mean().item()
    assert abs(together - (1 - p) ** 2) < 8 * error
    assert kept_share(p) == pytest.approx(1 - p, abs=2**-16)


def test_scales_what_is_kept_and_passes_its_gradient() -> None:
    x = torch.randn(7, 11, requires_grad=True)
    torch.manual_seed(4)
    found = dropout(x, 0.4, training=True)
    torch.manual_seed(4)
    factor = (draw_signs(x.shape, 0.4) >= 0) / kept_share(0.4)
    torch.testing.assert_close(found, x * factor)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, factor)


def test_extremes_and_evaluation() -> None:
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(dropout(x, 1.0, training=True), torch.zeros(5))
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_follows_the_global_seed() -> None:
    torch.manual_seed(9)
    first = draw_signs((100,), 0.5)
    second = draw_signs((100,), 0.5)
    torch.manual_seed(9)
    assert torch.equal(draw_signs((100,), 0.5), first)
    assert not torch.equal(first, second)
