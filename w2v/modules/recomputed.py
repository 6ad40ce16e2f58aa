"""Parts of a model that are computed once more on the way back instead of being remembered (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *inputs: Any, wanted: bool) -> Tensor:
    """Return `function(*inputs)`; where gradients are needed and this is `wanted`, only the inputs are remembered.

    Dropout draws the same numbers both times.
    """
    if not wanted or not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return result
