"""Functions with a backward pass of their own: zero gradients, scaled gradients, activation checkpointing.

A block that LayerDrop skips, or a mask embedding in a step without masks, must take part in the backward pass, or
DistributedDataParallel would wait for it for ever (or would have to search the graph at every step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from w2v.functional.eager import is_eager


class _WithZeroGrads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = [p.detach() for p in parameters]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return (grads[0], *map(_zeros, ctx.parameters))


def _zeros(parameter: Tensor) -> Tensor:
    if type(parameter) is not Tensor:  # divided over ranks (w2v.training.fsdp), and so must be its gradient
        return torch.zeros_like(parameter)
    # One zero, seen through a stride of 0, stands for a whole tensor.
    return torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)


def with_zero_grads(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return `x` unchanged; in the backward pass, every parameter that is being trained gets a gradient of zeros.

    Costs nothing in the forward pass: parameters are not read.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # A compiler, a tracer and `torch.func` give zeros, or nothing, to what was not used by themselves.
    if not trained or not torch.is_grad_enabled() or not is_eager():
        return x
    return _WithZeroGrads.apply(x, *trained)  # type: ignore[no-any-return,no-untyped-call]


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
    if factor == 1.0 or not (torch.is_grad_enabled() and x.requires_grad):
        return x
    if not is_eager():
        return x.detach() + (x - x.detach()) * factor  # the same value, as the bracket is zero
    return _GradMultiply.apply(x, factor)  # type: ignore[no-any-return,no-untyped-call]


def checkpointed(function: Callable[..., Tensor], *inputs: Any, wanted: bool) -> Tensor:
    """Return `function(*inputs)`; where gradients are needed and this is `wanted`, only the inputs are stored.

    Dropout draws the same numbers both times.
    """
    if not wanted or not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return result
