"""What a list of convolution layers implies: frame counts, receptive field, stride (wav2vec 2.0, section 2).

Integer arithmetic throughout. The modules that run the convolutions are in `w2v.modules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from w2v.array_types import IntArray
from w2v.config import parse_literal

ConvLayer = tuple[int, int, int]
"""(channels, kernel width, stride)."""

LengthT = TypeVar("LengthT", int, Tensor)


def conv_layers(value: Any) -> tuple[ConvLayer, ...]:
    """Parse `'[(512, 10, 5)] + [(512, 3, 2)] * 4'`, or the same as nested lists.

    Raises:
        ValueError: the value is no list of triples of whole numbers of at least 1.
    """
    items = parse_literal(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items:
        raise ValueError(f"must be a list of (channels, kernel, stride), got {value!r}")
    if isinstance(items, tuple) and all(isinstance(number, int) for number in items):
        items = [items]  # '(512, 10, 5)': the brackets of a single layer were left out
    layers: list[ConvLayer] = []
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 3:
            raise ValueError(f"each layer must be (channels, kernel, stride), got {item!r}")
        if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in item):
            raise ValueError(f"channels, kernel and stride must be whole numbers of at least 1, got {item!r}")
        layers.append((item[0], item[1], item[2]))
    return tuple(layers)


def conv_length(length: LengthT, kernel: int, stride: int) -> LengthT:
    """Return the frames that one unpadded convolution makes of `length` frames; never below 0."""
    if isinstance(length, Tensor):
        return torch.clamp((length - kernel).div(stride, rounding_mode="floor") + 1, min=0)
    return max((length - kernel) // stride + 1, 0)


def frame_lengths(lengths: LengthT, layers: Iterable[ConvLayer]) -> LengthT:
    """Return the frames that the stack makes of each clip.

    Differs from the original: integers, where `_get_feat_extract_output_lengths` rounds floats down.

    Args:
        lengths: samples, a number or (B,) int64.
        layers: the stack.
    """
    for _, kernel, stride in layers:
        lengths = conv_length(lengths, kernel, stride)
    return lengths


def receptive_field(layers: Iterable[ConvLayer]) -> int:
    """Return the number of samples that one frame sees; a clip needs at least so many for one frame."""
    field, jump = 1, 1
    for _, kernel, stride in layers:
        # Each further tap reaches `jump` samples on; strides before it multiply that.
        field += (kernel - 1) * jump
        jump *= stride
    return field


def samples_for_frames(frames: IntArray, layers: Sequence[ConvLayer]) -> IntArray:
    """Return the fewest samples of which the stack makes so many frames, at least 1 (`frame_lengths` backwards)."""
    for _, kernel, stride in reversed(layers):
        frames = (frames - 1) * stride + kernel
    return frames


def total_stride(layers: Iterable[ConvLayer]) -> int:
    """Return the number of samples between two frames."""
    jump = 1
    for _, _, stride in layers:
        jump *= stride
    return jump


def padded_frame_lengths(lengths: Tensor, num_samples: int, num_frames: int) -> Tensor:
    """Return the valid frames per clip by the original's rule (`--original-padding`).

    The original drops `num_samples % num_frames` trailing samples of the padding mask, cuts the rest into
    `num_frames` equal pieces, and takes a frame for padding if all samples of its piece are. Some clips get one
    frame more or less than the convolutions make of them.

    Args:
        lengths: (B,) int64 true samples per clip.
        num_samples: width of the padded batch.
        num_frames: frames that the stack makes of `num_samples`.
    """
    if num_frames == 0:
        return torch.zeros_like(lengths)
    piece = num_samples // num_frames
    return torch.clamp((lengths + piece - 1).div(piece, rounding_mode="floor"), max=num_frames)
