"""Batches whose clips go through the large parts of a model a few at a time, when a device is out of memory.

Convolutions and transformer treat every clip by itself, and hold nearly all memory of a step. Computed in chunks, and
again in the backward pass instead of being stored, they need memory for one chunk only. What depends on the whole
batch (masks, negatives from other clips, Gumbel noise, the diversity of codes, the loss) still sees the whole batch,
so the result is that of the undivided batch up to rounding. Dropout alone draws differently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_wanted: ContextVar[int] = ContextVar("chunks", default=1)


@contextlib.contextmanager
def chunks(number: int) -> Iterator[None]:
    """Let `chunked` work in so many parts, in this context."""
    token = _wanted.set(number)
    try:
        yield
    finally:
        _wanted.reset(token)


def chunked(function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return `function(x, lengths)`, computed in as many parts as the context asks for.

    Args:
        function: computes each clip from that clip alone, such as a module.
        x: (B, ...).
        lengths: (B,) int64 on the CPU, or None.
    """
    # Compilers cannot look into a context; what is compiled as a whole is not computed in parts.
    number = 1 if torch.compiler.is_compiling() else _wanted.get()
    if number == 1:
        return function(x, lengths)
    # A clip is the smallest part; parts differ by one clip at most.
    number = min(number, x.shape[0])
    parts = zip(x.tensor_split(number), [None] * number if lengths is None else lengths.tensor_split(number))
    if not torch.is_grad_enabled():
        return torch.cat([function(*part) for part in parts])
    # Once more in the backward pass: a third more time, for the memory of one part.
    return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts])
