"""Scaled gradients."""

from __future__ import annotations

import torch

from w2v.modules.autograd import grad_multiply


def test_only_the_gradient_is_scaled() -> None:
    x = torch.randn(3, requires_grad=True)
    y = grad_multiply(x, 0.1)
    assert torch.equal(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 0.1))
    assert grad_multiply(x, 1.0) is x
