"""The two arguments that every audio model takes, `source` and `lengths`: checked once, at its door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from w2v.errors import ArgumentError
from w2v.functional.conv_spec import ConvLayer, frame_lengths, receptive_field, total_stride
from w2v.functional.eager import is_eager


def check_clips(source: Any, lengths: Any, layers: Sequence[ConvLayer] = ()) -> tuple[Tensor, Tensor | None]:
    """Return `source` and `lengths` in the form that models compute with.

    Args:
        source: (B, S) samples, floating point.
        lengths: (B,) true samples per clip: a tensor on any device, an array, a list; whole numbers, also as floats.
            None: no clip is padded.
        layers: the convolutions of the model, if known: mistakes are then found that give wrong features silently.

    Returns:
        `source`, and `lengths` as int64 on the CPU, or None.

    Raises:
        ArgumentError: one of them is something else; the message names it.
    """
    if not isinstance(source, Tensor) or source.dim() != 2 or not source.is_floating_point():
        raise ArgumentError(f"source must be a floating point tensor (clips, samples), got {_described(source)}")
    if not is_eager():
        return source, lengths  # a compiler or tracer does not know the numbers yet
    num_clips, num_samples = source.shape
    field = receptive_field(layers)
    if layers and num_samples < field <= num_clips:
        raise ArgumentError(
            f"source must be (clips, samples), got {_described(source)}: {num_clips} clips too short for a frame; "
            "(samples, channels) is turned by source.T"
        )
    if lengths is None:
        return source, None
    lengths = _whole_numbers(lengths, source)
    if num_clips and not (int(lengths.min()) >= 0 and int(lengths.max()) <= num_samples):
        raise ArgumentError(f"{_RULE}, from 0 to {num_samples} for this source, got {_listed(lengths)}")
    if layers and num_clips and num_samples >= field:
        _refuse_other_units(lengths, num_samples, layers)
    return source, lengths


_RULE = "lengths must hold the true samples of each clip"


def _whole_numbers(lengths: Any, source: Tensor) -> Tensor:
    """Return `lengths` as (B,) int64 on the CPU."""
    try:
        given = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as e:
        raise ArgumentError(f"{_RULE}, one number per clip, got {type(lengths).__name__}") from e
    if given.dtype == torch.bool or given.dim() == 2:
        raise ArgumentError(
            f"{_RULE}, one number per clip, got a mask {tuple(given.shape)}; the count of a mask that is true, or 1, "
            "at samples: mask.sum(dim=1)"
        )
    if given.shape != source.shape[:1] or given.is_complex():
        raise ArgumentError(f"{_RULE}, {len(source)} numbers for this source, got {_described(given)}")
    numbers = given.detach().cpu()
    whole = numbers.to(torch.int64)
    if numbers.is_floating_point() and not torch.equal(whole.to(numbers.dtype), numbers):
        raise ArgumentError(
            f"{_RULE}, whole numbers, got {_listed(numbers)}; shares of the longest clip times source.shape[1] are such"
        )
    return whole


def _refuse_other_units(lengths: Tensor, num_samples: int, layers: Sequence[ConvLayer]) -> None:
    """Refuse frame counts, seconds and shares in the place of samples: no clip fills the batch, by far."""
    stride, longest = total_stride(layers), int(lengths.max())
    # Frames of the longest clip are about num_samples / stride; seconds are fewer still.
    if longest * stride <= num_samples + stride or not frame_lengths(lengths, layers).any():
        raise ArgumentError(
            f"{_RULE}, and no clip of {_listed(lengths)} samples has a frame, or fills a batch of {num_samples}; "
            "frames, seconds and shares are other units"
        )


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _listed(numbers: Tensor) -> str:
    some = ", ".join(f"{number:g}" for number in numbers[:5].tolist())
    return f"[{some}{', ...' if len(numbers) > 5 else ''}]"
