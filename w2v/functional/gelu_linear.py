"""A linear layer of activations that are computed once more on the way back instead of being remembered.

Between the two layers of a feed-forward network stand the widest tensors of a transformer. GELU remembers its input and
the second layer its own, GELU's output; one of them is enough. On a CPU the second GELU takes about 1 % of an update.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `linear(gelu(x), weight, bias)`.

    Args:
        x: (..., C).
        weight: (D, C).
        bias: (D,).
    """
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(F.gelu(x), weight, bias)
    result: Tensor = _GeluLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        # Autocast, where it is on, works in here, too; on the way back it does not.
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        # (..., D) -> (N, D)
        grad = grads[0].flatten(0, -2)
        grad_x = torch.ops.aten.gelu_backward((grad @ weight.to(grad.dtype)).view_as(x).to(x.dtype), x)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None
        grad_weight = grad.t() @ F.gelu(x).flatten(0, -2).to(grad.dtype)
        return grad_x, grad_weight.to(weight.dtype), grad.sum(dim=0).to(weight.dtype)
