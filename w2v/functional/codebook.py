"""Arithmetic of product codebooks: Gumbel softmax, choice of codes, perplexities (wav2vec 2.0, section 2).

Codes are numbers in [0, V) per group, without the group's offset. Everything is computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from w2v.functional.autocast import at_least_float32
from w2v.functional.eager import is_eager


def gumbel_noise(shape: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Draw float32 samples of the standard Gumbel distribution on the generator's device."""
    noise = torch.empty(shape, dtype=torch.float32, device=generator.device)
    noise.exponential_(generator=generator)
    # An exponential draw can round to zero, and the noise to infinity.
    return -noise.clamp_min_(torch.finfo(torch.float32).tiny).log_()


def gumbel_probabilities(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Return softmax((logits + noise) / temperature) over the last dimension, in float32 at least."""
    return torch.softmax((at_least_float32(logits) + noise) / temperature, dim=-1)


def perplexity(probabilities: Tensor) -> Tensor:
    """Return the summed perplexity of (G, V) distributions: between G (collapsed) and G x V (uniform)."""
    # 1e-7 keeps 0 * log 0 at 0; a perplexity of 320 shifts by 0.01.
    entropy = -(probabilities * torch.log(probabilities + 1e-7)).sum(dim=-1)
    return entropy.exp().sum()


def prob_perplexity(logits: Tensor) -> Tensor:
    """Return the perplexity of the softmax averaged over frames, without noise and temperature.

    Args:
        logits: (N, G, V).
    """
    # Not mean(): without frames it is nan, and so would be the loss.
    return perplexity(torch.softmax(at_least_float32(logits), dim=-1).sum(dim=0) / max(logits.shape[0], 1))


def code_perplexity(codes: Tensor, num_vars: int) -> Tensor:
    """Return the perplexity of the share of frames that chose each code.

    Args:
        codes: (N, G) int64 in [0, num_vars).
        num_vars: V.
    """
    num_frames, groups = codes.shape
    offsets = torch.arange(groups, device=codes.device) * num_vars
    ones = torch.ones(num_frames * groups, device=codes.device)
    # index_add of ones, not bincount, which waits for the device; not in place, for `vmap`.
    counts = torch.zeros(groups * num_vars, device=codes.device).index_add(0, (codes + offsets).flatten(), ones)
    return perplexity(counts.view(groups, num_vars) / max(num_frames, 1))


def codebook_index(codes: Tensor, num_vars: int) -> Tensor:
    """Return the row of each combination of codes in the product codebook; group 0 counts most.

    Args:
        codes: (..., G) int64.
        num_vars: V.
    """
    # Up to V ** G rows: int64 holds them, as the options are checked for that.
    index = torch.zeros_like(codes[..., 0])
    for group in range(codes.shape[-1]):
        index = index * num_vars + codes[..., group]
    return index


def codes_of_index(index: Tensor, num_vars: int, groups: int) -> Tensor:
    """Return (..., G) codes of rows of the product codebook: the inverse of `codebook_index`."""
    codes = []
    for _ in range(groups):
        codes.append(index % num_vars)
        index = index.div(num_vars, rounding_mode="floor")
    return torch.stack(codes[::-1], dim=-1)


class StraightThroughLookup(torch.autograd.Function):
    """Look up the chosen entries; in the backward pass the soft choice counts as taken (straight-through estimator).

    Equal to `(one_hot - soft.detach() + soft) @ entries` without its (N, G, V) intermediate: forward is a
    gather. Differs from the original by the rounding of `1 - soft + soft`: here equal codes give equal vectors, bit
    for bit.
    """

    @staticmethod
    def forward(ctx: Any, soft: Tensor, codes: Tensor, entries: Tensor) -> Tensor:
        """Return (N, G, D) entries.

        Args:
            ctx: torch's.
            soft: (N, G, V) float32 probabilities; only its gradient matters.
            codes: (N, G) int64 choices.
            entries: (G, V, D).
        """
        ctx.save_for_backward(codes, entries)
        return look_up(codes, entries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        codes, entries = ctx.saved_tensors
        # The gradient of the soft choice: as if the output had been soft @ entries.
        grad = grads[0].to(entries.dtype)  # (N, G, D)
        groups, num_vars, width = entries.shape
        by_group = grad.transpose(0, 1)
        grad_soft = grad_entries = None
        if ctx.needs_input_grad[0]:
            # (G, N, D) x (G, D, V) -> (G, N, V) -> (N, G, V)
            grad_soft = torch.bmm(by_group, entries.transpose(1, 2)).transpose(0, 1)
        if ctx.needs_input_grad[2]:
            rows = codes + torch.arange(groups, device=codes.device) * num_vars
            flat = torch.zeros(groups * num_vars, width, dtype=entries.dtype, device=entries.device)
            grad_entries = flat.index_add_(0, rows.flatten(), grad.reshape(-1, width)).view_as(entries)
        return grad_soft, None, grad_entries


def look_up(codes: Tensor, entries: Tensor) -> Tensor:
    """Return (N, G, D) entries of (G, V, D) `entries` for (N, G) `codes`."""
    groups, num_vars, width = entries.shape
    rows = codes + torch.arange(groups, device=codes.device) * num_vars
    return entries.reshape(-1, width).index_select(0, rows.flatten()).view(*codes.shape, width)


def straight_through_lookup(soft: Tensor, codes: Tensor, entries: Tensor) -> Tensor:
    """Return (N, G, D) chosen entries, with the gradient of the soft choice (Gumbel softmax, hard).

    Args:
        soft: (N, G, V) float32 probabilities.
        codes: (N, G) int64, normally the argmax of `soft`.
        entries: (G, V, D) codebook.
    """
    if not is_eager():
        # The bracket is zero, and carries the gradient of the soft choice: (N, G, V) x (G, V, D) -> (N, G, D)
        soft_entries = torch.einsum("ngv,gvd->ngd", soft - soft.detach(), entries.detach().to(soft.dtype))
        return look_up(codes, entries) + soft_entries.to(entries.dtype)
    return StraightThroughLookup.apply(soft, codes, entries)  # type: ignore[no-any-return,no-untyped-call]
