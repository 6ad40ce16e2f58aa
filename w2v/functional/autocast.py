"""Where numbers must keep their digits, whatever the model around them is computed in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which products of float32 stay in float32; autocast would turn them to half precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is in half precision, and as it is otherwise: float64 keeps its digits, too.

    Statistics of norms need it: sums over thousands of frames lose all their digits in 8 or 11 bits.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
