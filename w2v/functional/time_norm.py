"""Norm of each channel over time in (B, T, C) layout, in which padding does not count.

It is a group norm with one channel per group. torch has kernels for that, but only for (B, C, T): turning the largest
tensor of the model around, twice, costs more than the norm. torch's batch norm of one clip would have the right
layout; in torch 2.13 its gradients are wrong for images of height 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def norm_over_time(
    x: Tensor, lengths: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> Tensor:
    """Normalise each channel over the valid frames of each clip, in float32.

    Args:
        x: (B, T, C).
        lengths: (B,) int64 valid frames per clip, CPU; None where all are valid.
        weight: (C,) float32 gains, or None.
        bias: (C,) float32 offsets, or None.
        eps: added to the variance.

    Returns:
        (B, T, C) in the dtype of `x`, zero in padded frames.
    """
    valid = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
    channels = x.shape[2]
    weight = torch.ones(channels, device=x.device) if weight is None else weight
    bias = torch.zeros(channels, device=x.device) if bias is None else bias
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
            clip = x[i, :length].float()
            mean = clip.mean(dim=0)
            centred = clip - mean
            # Two passes: the mean of squares less the square of the mean would lose digits on audio with an offset.
            scale = torch.rsqrt(centred.square().mean(dim=0) + eps)
            result[i, :length] = torch.addcmul(bias, centred, weight * scale)
            means[i], scales[i] = mean, scale
        ctx.save_for_backward(x, weight, means, scales)
        ctx.valid = valid
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, means, scales = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for i, length in enumerate(ctx.valid):
            grad_x[i, length:] = 0
            if length == 0:
                continue
            grad, scale = grads[0][i, :length].float(), scales[i]
            normed = (x[i, :length].float() - means[i]).mul_(scale)
            total, weighted = grad.sum(dim=0), (grad * normed).sum(dim=0)
            grad_bias += total
            grad_weight += weighted
            # scale * weight * (grad - mean(grad) - normed * mean(grad * normed))
            factor = weight * scale
            normed.mul_(-factor * weighted / length).addcmul_(grad, factor)
            grad_x[i, :length] = normed.sub_(factor * total / length)
        return grad_x, grad_weight, grad_bias, None, None
