"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1), with a fast way for dropout on a CPU.

torch's fused CPU kernel has no dropout: with one, torch computes in float32, several tensors of all heads at a time,
which takes 2.5 x as long. Here a few heads are computed at a time, so that their weights stay in the cache, and what
the backward pass needs of them is one tensor: the weights, with a minus sign where they were dropped.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.functional.autocast import without_autocast
from w2v.functional.dropout import draw_signs, kept_share
from w2v.functional.eager import is_eager

_WEIGHTS_AT_ONCE = 2**20


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attend_to: Tensor | None,
    *,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Mix values by how well their keys fit the queries.

    Args:
        query: (B, H, T, D).
        key: (B, H, T', D).
        value: (B, H, T', D).
        attend_to: (B, 1, 1, T') bool, true for keys that count, at least one per clip; None: all.
        dropout: share of attention weights set to zero.
        is_causal: a position sees itself and earlier ones; not together with `attend_to`.

    Returns:
        (B, H, T, D).
    """
    # Without dropout torch's fused kernel is the fastest; a compiler and `torch.func` need an operation of torch.
    if dropout == 0 or query.device.type != "cpu" or is_causal or not is_eager():
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=attend_to, dropout_p=dropout, is_causal=is_causal
        )
    return _Attention.apply(query, key, value, attend_to, dropout)  # type: ignore[no-any-return,no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, attend_to: Tensor | None, dropout: float
    ) -> Tensor:
        num_clips, num_heads, num_queries, width = query.shape
        share = kept_share(dropout)
        # (B, H, T, D) -> (B * H, T, D), in memory as well: products of such blocks need no copies.
        query, key, value = (_stacked(query, width**-0.5), _stacked(key), _stacked(value, 1 / share))
        result = torch.empty_like(query)
        signed = query.new_empty(len(query), num_queries, key.shape[1])
        hidden = None if attend_to is None else ~attend_to.expand(-1, num_heads, -1, -1).flatten(0, 1)
        with without_autocast(query.device):
            for part in _parts(signed):
                # (h, T, D) x (h, D, T') -> (h, T, T') of a few heads: they stay in the cache
                scores = torch.bmm(query[part], key[part].transpose(1, 2))
                if hidden is not None:
                    scores.masked_fill_(hidden[part], -torch.inf)
                weights = scores.softmax(dim=-1)
                torch.copysign(weights, _as_signs(draw_signs(weights.shape, dropout), weights.dtype), out=signed[part])
                torch.bmm(signed[part].relu(), value[part], out=result[part])
        ctx.save_for_backward(query, key, value, signed, result)
        ctx.scale = width**-0.5
        ctx.share = share
        return result.view(num_clips, num_heads, num_queries, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, signed, result = ctx.saved_tensors
        grad = _stacked(grads[0])
        # sum over keys of weight * gradient of the weight = output . gradient of the output
        mean = (grad.float() * result.float()).sum(dim=-1, keepdim=True).to(grad.dtype)
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for part in _parts(signed):
            # Weights that dropout kept; dropped ones have a minus sign.
            kept = signed[part].relu()
            # (h, T', T) x (h, T, D) -> (h, T', D)
            torch.bmm(kept.transpose(1, 2), grad[part], out=grad_value[part])
            # weight * (kept * (gradient . value) - mean); `value` holds 1 / share already
            grad_scores = kept.mul_(torch.bmm(grad[part], value[part].transpose(1, 2)))
            grad_scores.addcmul_(signed[part].abs(), mean[part], value=-1)
            torch.bmm(grad_scores, key[part], out=grad_query[part])
            torch.bmm(grad_scores.transpose(1, 2), query[part], out=grad_key[part])
        grad_query.mul_(ctx.scale)
        grad_value.div_(ctx.share)
        num_clips, num_heads = grads[0].shape[:2]
        grad_query, grad_key, grad_value = (
            part.view(num_clips, num_heads, *part.shape[1:]) for part in (grad_query, grad_key, grad_value)
        )
        return grad_query, grad_key, grad_value, None, None


def _stacked(x: Tensor, factor: float | None = None) -> Tensor:
    """Return a contiguous (B * H, T, D) of (B, H, T, D), times a factor."""
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if factor is None:
        result.copy_(x)
    else:
        torch.mul(x, factor, out=result)
    return result.flatten(0, 1)


def _parts(weights: Tensor) -> list[slice]:
    """Cut (B * H, T, T') into pieces that a cache holds."""
    step = max(_WEIGHTS_AT_ONCE // (weights.shape[1] * weights.shape[2]), 1)
    return [slice(first, first + step) for first in range(0, len(weights), step)]


def _as_signs(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers of `dtype` with the signs of int16 numbers; those of 16 bits are the same bits."""
    return numbers.view(dtype) if dtype.itemsize == 2 else numbers.to(dtype)
