"""Dropout whose mask is cheap to draw on a CPU.

torch draws one Bernoulli variable per number there, which takes longer than the matrix product before it. Here one
64-bit draw of torch's global generator serves four numbers. Elsewhere torch's own kernel is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.eager import is_eager

_LEVELS = 2**15
_LOW_BITS = 0x7FFF_7FFF_7FFF_7FFF
"""All but the first of each 16 bits."""


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Return `x` with a share `p` of its numbers set to zero and the others scaled by 1 / (1 - p), while training.

    On a CPU, p is rounded to a multiple of 2 ** -15.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or p >= 1 or not is_eager():  # a compiler has its own
        return F.dropout(x, p)
    return _Dropout.apply(x, p)  # type: ignore[no-any-return,no-untyped-call]


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def draw_signs(shape: Sequence[int], p: float) -> Tensor:
    """Return an int16 tensor on the CPU, negative with probability `p` (rounded), from torch's global generator."""
    size = torch.Size(shape)
    # Four 15-bit numbers in each draw of 64 bits.
    words = torch.empty((size.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return words.bitwise_and_(_LOW_BITS).view(torch.int16)[: size.numel()].sub_(_num_dropped(p)).view(size)


def kept_share(p: float) -> float:
    """Return the share of numbers that are not negative in `draw_signs`: 1 - p, rounded."""
    return 1.0 - _num_dropped(p) / _LEVELS


def _num_dropped(p: float) -> int:
    """Return how many of the numbers 0 ... 2 ** 15 - 1 mean 'dropped'."""
    return round(p * _LEVELS)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        # All bits of a number that is kept, none of one that is dropped.
        bits = draw_signs(x.shape, p).bitwise_right_shift_(15).bitwise_not_()
        ctx.save_for_backward(bits)
        ctx.scale = 1.0 / kept_share(p)
        return _select(x, bits).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        return _select(grads[0], bits).mul_(ctx.scale), None


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _select(x: Tensor, bits: Tensor) -> Tensor:
    """Return a copy of `x` that is 0 where the int16 `bits` are 0, and the same where they are -1."""
    # As integers of the same width: a bitwise and costs less than a product, and keeps infinities out of 0 * inf.
    integers = _INTEGERS[x.dtype.itemsize]
    return x.view(integers).bitwise_and(bits.to(integers)).view(x.dtype)
