"""Positions of the frames of a padded batch that are not padding, planned on the host."""

from __future__ import annotations

import torch
from torch import Tensor


def true_frames(lengths: Tensor, size: int) -> Tensor:
    """Return the flat positions `clip * size + frame` of all true frames, in order.

    Selecting by these indices needs no word from the device, as a boolean mask would.

    Args:
        lengths: (B,) int64 true frames per clip, on the CPU.
        size: frames T that the batch is wide.

    Returns:
        (N,) int64 on the CPU, where N is the sum of `lengths`.
    """
    return (torch.arange(size) < lengths.unsqueeze(1)).flatten().nonzero().squeeze(1)
