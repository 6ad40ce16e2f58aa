"""Sinusoidal positions (Vaswani et al. 2017, section 3.5), in the arrangement of fairseq and tensor2tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoid(positions: Tensor, dim: int) -> Tensor:
    """Return (..., dim) float32: sines in the first half, cosines in the second, a zero at the end if `dim` is odd.

    Differs from the paper, as fairseq does: frequencies end at exactly 1 / 10000, and sines and cosines do not
    alternate.

    Args:
        positions: (...) whole numbers.
        dim: width, at least 4.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000) / (half - 1)))
    angles = positions.float().unsqueeze(-1) * frequencies
    parts = [angles.sin(), angles.cos()]
    if dim % 2:
        parts.append(torch.zeros_like(angles[..., :1]))
    return torch.cat(parts, dim=-1)
