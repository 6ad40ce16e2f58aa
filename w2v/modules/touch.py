"""Zero gradients for parameters that a step does not use.

A block that LayerDrop skips, or a mask embedding in a step without masks, must take part in the backward pass, or
DistributedDataParallel would wait for it for ever (or would have to search the graph at every step).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class _Touch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = [p.detach() for p in parameters]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return (grads[0], *map(_zeros, ctx.parameters))


def _zeros(parameter: Tensor) -> Tensor:
    if type(parameter) is not Tensor:  # divided over ranks (w2v.sharding), and so must be its gradient
        return torch.zeros_like(parameter)
    # One zero, seen through a stride of 0, stands for a whole tensor.
    return torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)


def touch(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return `x` unchanged; on the way back, every parameter that is being trained gets a gradient of zeros.

    Costs nothing in the forward pass: parameters are not read.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained or not torch.is_grad_enabled():
        return x
    return _Touch.apply(x, *trained)  # type: ignore[no-any-return,no-untyped-call]
