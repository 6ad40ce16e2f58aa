"""Scaling of gradients (`--feature-grad-mult`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _GradMultiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def grad_multiply(x: Tensor, factor: float) -> Tensor:
    """Return `x`; its gradient is multiplied by `factor`."""
    if factor == 1.0:
        return x
    return _GradMultiply.apply(x, factor)  # type: ignore[no-any-return,no-untyped-call]
