"""Span masks over time or channels (wav2vec 2.0, section 3.1; appendix A).

Follows the original of October 2020 draw for draw: spans start at distinct frames, may overlap, and every clip of
a batch ends up with the same number of masked frames. Planned on the host with numpy, where lengths are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w2v.array_types import BoolArray, IntArray

SELECTIONS = ("static", "uniform", "normal", "poisson")
"""Laws of the span length: always `length`; uniform in [other, 2 length]; normal(length, other); poisson(length)."""


@dataclass(frozen=True)
class MaskSpec:
    """How spans are drawn.

    Attributes:
        prob: share of frames aimed at before overlaps; 0: nothing is masked.
        length: mean span length, in frames.
        selection: distribution of the span length, one of `SELECTIONS`.
        other: second parameter of that distribution.
        no_overlap: keep spans apart.
        min_space: least gap between spans where `no_overlap`.
        min_masks: least number of spans per clip.
    """

    prob: float
    length: int
    selection: str = "static"
    other: float = 0.0
    no_overlap: bool = False
    min_space: int = 1
    min_masks: int = 0


def sample_mask(sizes: Sequence[int], num_frames: int, spec: MaskSpec, *, rng: np.random.Generator) -> BoolArray:
    """Draw a mask in which every clip that has frames has the same number of masked ones.

    Differs from the original: zero spans mean no mask, where it raises; a clip without frames is left out of the
    thinning, so that it does not unmask the others.

    Args:
        sizes: valid frames of each clip.
        num_frames: width T of the mask.
        spec: how spans are drawn.
        rng: source of all draws.

    Returns:
        (B, T) bool, true where masked; never true past a clip's size.
    """
    is_padded = any(size < num_frames for size in sizes)
    # The original draws the rounding for the whole batch first, and again for each clip where there is padding.
    shared_count = _num_spans(num_frames, spec, rng)
    rows = []
    for size in sizes:
        count = _num_spans(size, spec, rng) if is_padded else shared_count
        rows.append(_masked_frames(size, count, spec, rng))
    return _thin(rows, sizes, num_frames, rng)


def equal_rows(sizes: Sequence[int], num_frames: int, *, rng: np.random.Generator) -> BoolArray:
    """Choose as many frames of each clip as the shortest clip (that has any) has; arguments as in `sample_mask`."""
    return _thin([np.arange(size) for size in sizes], sizes, num_frames, rng)


def masked_positions(mask: BoolArray) -> tuple[IntArray, IntArray]:
    """Return where a mask with equal rows is true.

    Args:
        mask: (B, T) bool; every row holds M true values, or none.

    Returns:
        (B',) rows that hold any, and (B', M) their positions, ascending.

    Raises:
        ValueError: rows hold different numbers.
    """
    counts = mask.sum(axis=1)
    rows = np.flatnonzero(counts)
    if len(rows) and counts[rows].min() != counts[rows].max():
        raise ValueError(f"every row of a mask must hide the same number of frames, got {counts.tolist()}")
    return rows, np.nonzero(mask)[1].reshape(len(rows), -1 if len(rows) else 0)


def _thin(rows: Sequence[IntArray], sizes: Sequence[int], num_frames: int, rng: np.random.Generator) -> BoolArray:
    """Return a mask of `rows`, each cut at random to the smallest one; clips without frames do not count."""
    mask = np.zeros((len(sizes), num_frames), dtype=np.bool_)
    # The loss wants one (B', M) of masked frames, so all clips have as many as the one with the fewest.
    smallest = min((len(row) for row, size in zip(rows, sizes, strict=True) if size > 0), default=0)
    for i, row in enumerate(rows):
        mask[i, rng.choice(row, smallest, replace=False) if len(row) > smallest else row] = True
    return mask


def _num_spans(size: int, spec: MaskSpec, rng: np.random.Generator) -> int:
    # Rounded up or down at random, so that the mean is right.
    return max(spec.min_masks, int(spec.prob * size / float(spec.length) + rng.random()))


def _masked_frames(size: int, num_spans: int, spec: MaskSpec, rng: np.random.Generator) -> IntArray:
    """Return the masked frames of one clip, ascending."""
    if num_spans == 0 or size == 0:
        return np.zeros(0, dtype=np.int64)
    # Draws in the order of the original: lengths first, then starts.
    lengths = _span_lengths(num_spans, spec, rng)
    if lengths.sum() == 0:
        lengths[0] = min(spec.length, size - 1)
    if spec.no_overlap:
        starts, lengths = _separate_starts(size, lengths, spec.min_space, rng)
    else:
        shortest = int(lengths.min())
        if size - shortest <= num_spans:
            shortest = size - num_spans - 1
        starts = rng.choice(size - shortest, num_spans, replace=False)
    frames = _expand(starts, lengths)
    # Overlaps count once, and spans end with the clip.
    return np.unique(frames[frames < size])


def _span_lengths(num_spans: int, spec: MaskSpec, rng: np.random.Generator) -> IntArray:
    if spec.selection == "static":
        return np.full(num_spans, spec.length, dtype=np.int64)
    if spec.selection == "uniform":
        return np.asarray(rng.integers(int(spec.other), spec.length * 2 + 1, size=num_spans), dtype=np.int64)
    if spec.selection == "normal":
        return np.maximum(1, np.rint(rng.normal(spec.length, spec.other, size=num_spans))).astype(np.int64)
    if spec.selection == "poisson":
        return np.asarray(rng.poisson(spec.length, size=num_spans), dtype=np.int64)
    raise ValueError(f"mask selection must be one of {', '.join(SELECTIONS)}, got {spec.selection!r}")


def _expand(starts: IntArray, lengths: IntArray) -> IntArray:
    """Return all frames of the spans."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _separate_starts(
    size: int, lengths: IntArray, min_space: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Place spans, longest first, into free stretches chosen in proportion to their length.

    Returns:
        Starts and lengths of the spans that found room.
    """
    keep_length = int(lengths.min())
    free = [(0, size)]
    starts, placed = [], []
    for length in sorted(lengths.tolist(), reverse=True):
        # At least one frame more than the span, or the original's draw of a start has nothing to choose from.
        least = length + max(min_space, 1)
        room = np.array([end - start if end - start >= least else 0 for start, end in free], np.int64)
        if room.sum() == 0:
            break
        start, end = free.pop(int(rng.choice(len(free), p=room / room.sum())))
        span = int(rng.integers(start, end - length))
        starts.append(span)
        placed.append(length)
        if span - start - min_space >= keep_length:
            free.append((start, span - min_space + 1))
        if end - span - keep_length - min_space > keep_length:
            free.append((span + length + min_space, end))
    return np.array(starts, dtype=np.int64), np.array(placed, dtype=np.int64)
