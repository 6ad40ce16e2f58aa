"""Norm of each channel over time in (B, T, C) layout, in which padding does not count.

It is a group norm with one channel per group. torch has kernels for that, but only for (B, C, T): turning the largest
tensor of the model around, twice, costs more than the norm. torch's batch norm of one clip would have the right
layout; in torch 2.13 its gradients are wrong for images of height 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NUMBERS_AT_ONCE = 2**18


def norm_over_time(
    x: Tensor, lengths: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> Tensor:
    """Normalise each channel over the valid frames of each clip, in float32.

    Args:
        x: (B, T, C).
        lengths: (B,) int64 valid frames per clip, CPU; None where all are valid.
        weight: (C,) gains, or None.
        bias: (C,) offsets, or None.
        eps: added to the variance.

    Returns:
        (B, T, C) in the dtype of `x`, zero in padded frames.
    """
    valid = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
    channels = x.shape[2]
    # In float32 like the statistics, whatever the model is in; autograd casts their gradients back.
    weight = torch.ones(channels, device=x.device) if weight is None else weight.float()
    bias = torch.zeros(channels, device=x.device) if bias is None else bias.float()
    return _TimeNorm.apply(x, weight, bias, valid, eps)  # type: ignore[no-any-return,no-untyped-call]


class _TimeNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, valid: list[int], eps: float) -> Tensor:
        result = torch.empty_like(x)
        means = x.new_zeros(len(x), x.shape[2], dtype=torch.float32)
        scales = torch.zeros_like(means)
        for i, length in enumerate(valid):
            result[i, length:] = 0
            if length == 0:
                continue
            # (C,) each, filled in place
            mean, scale = means[i], scales[i]
            for piece in _pieces(x, length):
                mean += x[i, piece].float().sum(dim=0)
            mean /= length
            # Two passes: the mean of squares less the square of the mean would lose digits on audio with an offset.
            for piece in _pieces(x, length):
                scale += (x[i, piece].float() - mean).square_().sum(dim=0)
            scale.div_(length).add_(eps).rsqrt_()
            factor = weight * scale
            for piece in _pieces(x, length):
                result[i, piece] = torch.addcmul(bias, x[i, piece].float() - mean, factor)
        ctx.save_for_backward(x, weight, means, scales)
        ctx.valid = valid
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, means, scales = ctx.saved_tensors
        # (B, T, C), written piece by piece: no second tensor of this size
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for i, length in enumerate(ctx.valid):
            grad_x[i, length:] = 0
            if length == 0:
                continue
            total, weighted = torch.zeros_like(weight), torch.zeros_like(weight)
            for piece in _pieces(x, length):
                grad = grads[0][i, piece].float()
                total += grad.sum(dim=0)
                weighted += (x[i, piece].float() - means[i]).mul_(grad).sum(dim=0)
            weighted *= scales[i]
            grad_bias += total
            grad_weight += weighted
            # scale * weight * (grad - mean(grad) - normed * mean(grad * normed)), normed = (x - mean) * scale
            factor = weight * scales[i]
            slope, offset = -factor * weighted * scales[i] / length, -factor * total / length
            for piece in _pieces(x, length):
                part = torch.addcmul(offset, x[i, piece].float() - means[i], slope)
                grad_x[i, piece] = part.addcmul_(grads[0][i, piece].float(), factor)
        return grad_x, grad_weight, grad_bias, None, None


def _pieces(x: Tensor, length: int) -> list[slice]:
    """Cut the first `length` frames of (B, T, C) into pieces that a cache holds."""
    step = max(_NUMBERS_AT_ONCE // x.shape[2], 1)
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]
