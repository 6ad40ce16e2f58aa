"""Cosine similarities of predictions with their target and with sampled negatives (wav2vec 2.0, section 3.2).

One product of normalised matrices, then a gather of the sampled entries: the original's (K + 1, B, M, C) tensor of
negatives is never built.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

COSINE_EPSILON = 1e-8


def contrastive_logits(
    context: Tensor,
    targets: Tensor,
    negatives: Tensor,
    temperature: float,
    codes: Tensor | None = None,
    *,
    cross_sample: bool = True,
) -> Tensor:
    """Return similarities, the positive in column 0, and -inf where a negative equals its positive.

    Differs from the original in what "equal" means: with `codes`, the same codes. The original compares projected
    vectors, in which the rounding of its straight-through estimator lets some equal codes pass for different.

    Args:
        context: (B, M, C) predictions.
        targets: (B, M, C).
        negatives: (B, M, K) int64 flat indices into the (B * M) targets.
        temperature: divides the cosine.
        codes: (B, M) or (B, M, G) int64 that are equal where targets are equal; None: targets are compared bit for bit.
        cross_sample: whether negatives may lie in other clips; if not, only products within clips are computed.

    Returns:
        (B * M, 1 + K) float32.
    """
    identity = vector_identity(targets) if codes is None else code_identity(codes)
    positive, others = similarities(context, targets, targets, negatives, cross_sample=cross_sample)
    same = identity.flatten()[negatives] == identity[:, :, None]
    return assemble_logits(positive, others.masked_fill(same, -torch.inf), temperature)


def similarities(
    context: Tensor,
    targets: Tensor,
    candidates: Tensor,
    negatives: Tensor,
    *,
    cross_sample: bool,
) -> tuple[Tensor, Tensor]:
    """Return the cosines with the targets, (B, M), and with the chosen candidates, (B, M, K), in float32.

    Args:
        context: (B, M, C).
        targets: (B, M, C).
        candidates: (B, P, C); the targets themselves, or all frames.
        negatives: (B, M, K) flat indices into (B * P).
        cross_sample: as in `contrastive_logits`.
    """
    with without_autocast(context.device):
        query = F.normalize(context.float(), dim=-1, eps=COSINE_EPSILON)
        own = F.normalize(targets.float(), dim=-1, eps=COSINE_EPSILON)
        keys = own if candidates is targets else F.normalize(candidates.float(), dim=-1, eps=COSINE_EPSILON)
        positive = (query * own).sum(dim=-1)
        if cross_sample:
            # (B * M, C) x (C, B * P)
            table = query.flatten(0, 1) @ keys.flatten(0, 1).T
            chosen = table.gather(1, negatives.flatten(0, 1)).view_as(negatives)
        else:
            # (B, M, C) x (B, C, P)
            table = torch.bmm(query, keys.transpose(1, 2))
            first = torch.arange(keys.shape[0], device=negatives.device)[:, None, None] * keys.shape[1]
            chosen = table.gather(2, negatives - first)
    return positive, chosen


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which products of float32 stay in float32; autocast would turn them to half precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def assemble_logits(positive: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Return (B * M, 1 + K) logits from (B, M) and (B, M, K) cosines."""
    return (torch.cat([positive[:, :, None], others], dim=2) / temperature).flatten(0, 1)


def code_identity(codes: Tensor) -> Tensor:
    """Return (B, M) int64 that differ where (B, M, G) codes differ; (B, M) input is returned as it is."""
    if codes.dim() == 2:
        return codes
    return _mix(codes)


def vector_identity(vectors: Tensor) -> Tensor:
    """Return (B, M) int64 that are equal where (B, M, C) vectors are; others collide once in 2**64 pairs."""
    # Adding zero turns -0.0 into 0.0, which compares equal but has other bits.
    return _mix((vectors.detach().float() + 0.0).view(torch.int32).long())


def _mix(numbers: Tensor) -> Tensor:
    """Hash the last dimension of int64 `numbers` to 64 bits; exact, because integer sums have no rounding."""
    width = numbers.shape[-1]
    # Fixed odd 64-bit multipliers, one per column; sums wrap around.
    generator = torch.Generator().manual_seed(0x77A2)
    multipliers = torch.randint(-(2**62), 2**62, (width,), generator=generator) * 2 + 1
    return (numbers * multipliers.to(numbers.device, non_blocking=True)).sum(dim=-1)
