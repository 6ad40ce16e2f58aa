"""Cosine similarities of predictions with their target and with sampled negatives (wav2vec 2.0, section 3.2).

One product of normalised matrices, then a gather of the sampled entries: the original's (K + 1, B, M, C) tensor of
negatives is never built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.functional.autocast import without_autocast

COSINE_EPSILON = 1e-8


@dataclass(frozen=True)
class Candidates:
    """Vectors that negatives are chosen from.

    Attributes:
        vectors: (B, P, C).
        identity: (B, P) int64, equal where vectors count as equal (`code_identity`, `vector_identity`).
    """

    vectors: Tensor
    identity: Tensor


def contrastive_logits(
    context: Tensor,
    targets: Candidates,
    negatives: Tensor,
    temperature: float,
    *,
    candidates: Candidates | None = None,
    cross_sample: bool = True,
    further: Tensor | None = None,
) -> Tensor:
    """Return similarities, the positive in column 0, and -inf where a negative equals its positive.

    Differs from the original in what "equal" means where targets are quantised: the same codes. The original compares
    projected vectors, in which the rounding of its straight-through estimator could let equal codes pass for
    different.

    Args:
        context: (B, M, C) predictions.
        targets: (B, M, C).
        negatives: (B, M, K) int64 flat indices into the (B * P) candidates.
        temperature: divides the cosine.
        candidates: what negatives are chosen from; None: the targets.
        cross_sample: whether negatives may lie in other clips; if not, only products within clips are computed.
        further: (B, M, K') cosines of further negatives, to be put behind the others.

    Returns:
        (B * M, 1 + K + K') float32.
    """
    chosen_from = targets if candidates is None else candidates
    with without_autocast(context.device):
        # Unit vectors in float32: cosines near 1 differ in digits that half precision does not have.
        query, own = _normalised(context), _normalised(targets.vectors)
        keys = own if candidates is None else _normalised(candidates.vectors)
        positive = (query * own).sum(dim=-1, keepdim=True)
        if cross_sample:
            # (B * M, C) x (C, B * P)
            table = query.flatten(0, 1) @ keys.flatten(0, 1).T
            others = table.gather(1, negatives.flatten(0, 1)).view_as(negatives)
        else:
            # (B, M, C) x (B, C, P)
            table = torch.bmm(query, keys.transpose(1, 2))
            first = torch.arange(keys.shape[0], device=negatives.device)[:, None, None] * keys.shape[1]
            others = table.gather(2, negatives - first)
    # (B, M, K) against (B, M, 1)
    same = chosen_from.identity.flatten()[negatives] == targets.identity[:, :, None]
    columns = [positive, others.masked_fill(same, -torch.inf)]
    if further is not None:
        columns.append(further)
    return (torch.cat(columns, dim=2) / temperature).flatten(0, 1)


def class_logits(predictions: Tensor, classes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return similarities with the vectors of all classes, in the form of `contrastive_logits` (HuBERT, section 2.3).

    Args:
        predictions: (N, D).
        classes: (C, D).
        labels: (N,) int64 own classes.
        temperature: divides the cosine.

    Returns:
        (N, 1 + C) float32: the own class, then all of them, of which those with the vector of the own one hold -inf.
    """
    with without_autocast(predictions.device):
        table = _normalised(predictions) @ _normalised(classes).T  # (N, D) x (D, C)
    identity = vector_identity(classes)  # (C,)
    # (N, 1) against (1, C). Two classes with one vector both count for nothing, as in the original.
    same = identity[labels][:, None] == identity[None, :]
    own = table.gather(1, labels[:, None])
    return torch.cat([own, table.masked_fill(same, -torch.inf)], dim=1) / temperature


def _normalised(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float(), dim=-1, eps=COSINE_EPSILON)


def code_identity(codes: Tensor) -> Tensor:
    """Return (B, M) int64 that are equal where (B, M, G) codes are; others collide once in 2**64 pairs."""
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
