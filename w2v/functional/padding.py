"""Arithmetic on padded batches in which padding does not count.

Lengths are CPU tensors (see `w2v.types.AudioBatch`), so loops over clips and slices by length need no word from
the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.functional.autocast import at_least_float32


def is_padded(lengths: Tensor | None, size: int) -> bool:
    """Say whether any clip of (B,) CPU `lengths` is shorter than `size`."""
    return lengths is not None and bool((lengths < size).any())


def padding_mask(lengths: Tensor, size: int, device: torch.device | None = None) -> Tensor:
    """Return (B, size) bool on `device`, true where there is padding."""
    device = device or lengths.device
    # Only B numbers travel to the device; the mask is made there.
    on_device = lengths.to(device, non_blocking=True)
    return torch.arange(size, device=device)[None, :] >= on_device[:, None]


def group_norm(
    x: Tensor, lengths: Tensor | None, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> Tensor:
    """Normalise groups of channels over the *valid* frames of each clip.

    Differs from the original, whose group norms count padding, so that a clip's features depend on its batch.

    Args:
        x: (B, C, T), in float32 or float64.
        lengths: (B,) int64 valid frames per clip, CPU; None where all T frames of all clips are valid.
        num_groups: groups of channels; C of them: each channel by itself.
        weight: (C,) gains, or None.
        bias: (C,) offsets, or None.
        eps: added to the variance.

    Returns:
        (B, C, T), zero in padded frames.
    """
    # Without padding one call does for the batch.
    size = x.shape[2]
    # Gains and offsets of a model in half precision: torch's CPU kernel wants those of one dtype with `x`.
    weight, bias = (None if part is None else part.to(x.dtype) for part in (weight, bias))
    if lengths is None or not is_padded(lengths, size):
        return torch.group_norm(x, num_groups, weight, bias, eps)
    clips = []
    # One call per clip: the same kernel on the same numbers as for the clip alone, and none of the passes over
    # (B, C, T) that masked sums would take. unbind, because its gradient is one stack and not B full tensors.
    for clip, length in zip(x.unbind(0), lengths.tolist(), strict=True):
        # Not F.group_norm, which refuses a single value per channel. A clip without frames lends one, so that the
        # gains keep their place in the graph; nothing of it is kept.
        valid = torch.group_norm(clip[None, :, : max(length, 1)], num_groups, weight, bias, eps)[0]
        clips.append(F.pad(valid[:, :length], (0, size - length)))
    return torch.stack(clips)


def mean_square(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the mean of x squared over valid frames, in float32 (float64 of float64).

    Args:
        x: (B, T, C).
        lengths: (B,) int64 valid frames per clip, CPU; None where all are valid.
    """
    x = at_least_float32(x)
    if lengths is None or not is_padded(lengths, x.shape[1]):
        return x.square().mean()
    valid = x.masked_fill(padding_mask(lengths, x.shape[1], x.device)[:, :, None], 0.0)
    return valid.square().sum() / max(int(lengths.sum()) * x.shape[2], 1)


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
