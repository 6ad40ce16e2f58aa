"""Choice of negatives for the contrastive loss of wav2vec 2.0 (section 3.2): indices only, no vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_negatives(
    num_clips: int,
    num_targets: int,
    num_negatives: int,
    cross_sample_negatives: int,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw negatives, uniformly and with replacement, among the other targets.

    Differs from the original for cross-sample negatives, whose exclusion of the positive is off by whole clips for
    every clip but the first. A target that has no other to be told from gets itself; the loss ignores it.

    Args:
        num_clips: B.
        num_targets: M, targets per clip.
        num_negatives: drawn from the same clip.
        cross_sample_negatives: drawn from all clips of the batch.
        generator: source of the draws; its device is the result's.

    Returns:
        (B, M, K) int64 flat indices into the (B * M) targets; the K negatives of the same clip come first.
    """
    device = generator.device
    # Targets of all clips in one row: clip b begins at b * M.
    row = torch.arange(num_clips, device=device)[:, None, None] * num_targets
    column = torch.arange(num_targets, device=device)[None, :, None]
    shape = (num_clips, num_targets)
    own = _draw_others(num_targets, column, (*shape, num_negatives), generator) + row
    if cross_sample_negatives == 0:
        return own
    across = _draw_others(num_clips * num_targets, row + column, (*shape, cross_sample_negatives), generator)
    return torch.cat([own, across], dim=2)


def sample_negatives_everywhere(
    positions: Tensor,
    lengths: Tensor,
    num_frames: int,
    num_negatives: int,
    cross_sample_negatives: int,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw negatives among all valid frames, masked or not (`--negatives-from-everywhere`).

    Differs from the original, which excludes frame m for the m-th *target*, wherever that target lies, and which may
    choose padding.

    Args:
        positions: (B, M) int64 frame of each target, counted from its clip's start, on the generator's device.
        lengths: (B,) int64 valid frames per clip, on the generator's device.
        num_frames: T.
        num_negatives: drawn from the same clip.
        cross_sample_negatives: drawn from all clips.
        generator: source of the draws.

    Returns:
        (B, M, K) int64 flat indices into (B * T) frames.
    """
    device = generator.device
    num_clips, num_targets = positions.shape
    shape = (num_clips, num_targets)
    row = torch.arange(num_clips, device=device)[:, None, None] * num_frames
    own = _draw_others(lengths[:, None, None], positions[:, :, None], (*shape, num_negatives), generator) + row
    if cross_sample_negatives == 0:
        return own
    ends = lengths.cumsum(0)
    starts = ends - lengths
    rank = _draw_others(
        ends[-1], starts[:, None, None] + positions[:, :, None], (*shape, cross_sample_negatives), generator
    )
    clip = torch.searchsorted(ends, rank, right=True).clamp(max=num_clips - 1)
    across = clip * num_frames + rank - starts[clip]
    return torch.cat([own, across], dim=2)


def _draw_others(
    count: int | Tensor, excluded: Tensor, shape: tuple[int, int, int], generator: torch.Generator
) -> Tensor:
    """Draw numbers in [0, count) other than `excluded`; `excluded` itself where there is no other."""
    device = generator.device
    if isinstance(count, int):
        if count < 2:
            return excluded.expand(shape).clone()
        drawn = torch.randint(count - 1, shape, device=device, generator=generator)
        return drawn + (drawn >= excluded)
    # randint takes one bound for all clips. In float64 the draw is uniform far beyond any number of frames.
    uniform = torch.rand(shape, dtype=torch.float64, device=device, generator=generator)
    drawn = torch.minimum((uniform * (count - 1)).long(), count - 2)
    return torch.where(count > 1, drawn + (drawn >= excluded), excluded)
