"""How a clip that is too long for memory is cut into pieces, and which frames of each piece are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2v.functional.conv_spec import ConvLayer, frame_lengths, receptive_field, total_stride


@dataclass(frozen=True)
class Piece:
    """A part of a clip that is encoded by itself.

    Attributes:
        start: first sample.
        stop: sample after the last one.
        skip: frames at its beginning that belong to the piece before.
        keep: frames kept after those.
    """

    start: int
    stop: int
    skip: int
    keep: int

    @property
    def num_samples(self) -> int:
        return self.stop - self.start


def overlapping_windows(num_samples: int, layers: Sequence[ConvLayer], max_size: int, context: int) -> list[Piece]:
    """Cut a clip into windows that overlap, so that the frames kept are those of the whole clip, none missing.

    Args:
        num_samples: length of the clip.
        layers: the convolutions that make frames of samples.
        max_size: most samples of a window; 0: do not cut.
        context: samples at either end of a window that its neighbours' frames may see, besides their own.

    Returns:
        One piece where the clip fits, else windows of one size. All begin at a frame, so the frames of a window are
        at the places of the whole clip's frames.

    Raises:
        ValueError: a window of `max_size` has no room for a frame between its margins.
    """
    num_frames = frame_lengths(num_samples, layers)
    if not max_size or num_samples <= max_size:
        return [Piece(0, num_samples, 0, num_frames)]
    stride, field = total_stride(layers), receptive_field(layers)
    # In frames from here on: windows begin at frames, so their frames are those of the whole clip.
    width = frame_lengths(max_size, layers)
    margin = math.ceil(context / stride)
    advance = width - 2 * margin
    if advance < 1:
        raise ValueError(f"a window of {max_size} samples leaves no frame between margins of {context} samples")
    pieces = []
    done = 0
    while done < num_frames:
        # The last window is moved back rather than cut short: all have one size, and share batches.
        first = min(max(done - margin, 0), num_frames - width)
        last = num_frames if first + width >= num_frames else first + width - margin
        start = first * stride
        pieces.append(Piece(start, start + (width - 1) * stride + field, done - first, last - done))
        done = last
    return pieces


def equal_chunks(num_samples: int, layers: Sequence[ConvLayer], max_size: int) -> list[Piece]:
    """Cut a clip as the original's `vq-wav2vec_featurize.py` does: into equal parts that lose frames at their joins.

    Args:
        num_samples: length of the clip.
        layers: the convolutions that make frames of samples.
        max_size: most samples of a part; 0: do not cut.
    """
    if not max_size or num_samples <= max_size:
        return [Piece(0, num_samples, 0, frame_lengths(num_samples, layers))]
    size = math.ceil(num_samples / math.ceil(num_samples / max_size))
    starts = range(0, num_samples, size)
    stops = [min(start + size, num_samples) for start in starts]
    return [
        Piece(start, stop, 0, frame_lengths(stop - start, layers)) for start, stop in zip(starts, stops, strict=True)
    ]
