"""A linear layer of activations that are computed again in the backward pass instead of being kept for it.

Between the two layers of a feed-forward network stand the widest tensors of a transformer. GELU keeps its input and
the second layer its own, GELU's output; one of them is enough. On a CPU the second GELU takes about 1 % of an update.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.functional.eager import is_eager


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `linear(gelu(x), weight, bias)`.

    Args:
        x: (..., C).
        weight: (D, C).
        bias: (D,), or None.
    """
    # Without gradients nothing is kept anyway; a GPU was not measured.
    if x.device.type != "cpu" or not torch.is_grad_enabled() or not is_eager():
        return F.linear(F.gelu(x), weight, bias)
    result: Tensor = _GeluLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The bias is kept for its dtype alone: it is a parameter, which exists anyway.
        ctx.save_for_backward(x, weight, bias)
        # Autocast, where it is on, works in here, too; in the backward pass it does not.
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, bias = ctx.saved_tensors
        # Each gradient by itself: weights may be frozen beside a bias that trains, and the other way round.
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad = grads[0].flatten(0, -2)  # (..., D) -> (N, D)
        grad_x = grad_weight = grad_bias = None
        if wants_x:
            # (N, D) x (D, C) -> (N, C), the gradient of GELU's output
            grad_gelu = (grad @ weight.to(grad.dtype)).view_as(x).to(x.dtype)
            grad_x = torch.ops.aten.gelu_backward(grad_gelu, x)
        if wants_weight:
            # (D, N) x (N, C) -> (D, C); GELU once more
            grad_weight = (grad.t() @ F.gelu(x).flatten(0, -2).to(grad.dtype)).to(weight.dtype)
        if wants_bias:
            grad_bias = grad.sum(dim=0).to(bias.dtype)
        return grad_x, grad_weight, grad_bias
