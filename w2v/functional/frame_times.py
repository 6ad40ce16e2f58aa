"""Where frames lie in time.

Frame k of a stack of unpadded convolutions is made of the samples [k * stride, k * stride + field), and is centred in
them; there are sample_rate / stride frames per second. All layers of a model share these frames: what comes after the
convolutions (quantizers, aggregators, transformers) mixes frames and moves none. The context of wav2vec sees earlier
frames as well, that of wav2vec 2.0 the whole clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w2v.functional.conv_spec import ConvLayer, frame_lengths, receptive_field, total_stride
from w2v.types import FloatArray, IntArray


@dataclass(frozen=True)
class FrameTimes:
    """The frames of a clip, in samples from its beginning.

    Attributes:
        start: (T,) first sample that each frame is made of.
        stop: (T,) sample after the last one.
        centre: (T,) middle of the two; may be half a sample.
        stride: samples from one frame to the next.
        rate: frames per second; None where the sample rate is not known.
        sample_rate: samples per second, or None.
    """

    start: IntArray
    stop: IntArray
    centre: FloatArray
    stride: int
    rate: float | None
    sample_rate: int | None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def seconds(self) -> FloatArray:
        """Centres, in seconds.

        Raises:
            ValueError: the sample rate is not known.
        """
        if self.sample_rate is None:
            raise ValueError("seconds need a sample rate: give sample_rate, or what w2v.load_model returned")
        return np.asarray(self.centre / self.sample_rate)


def frame_times(num_samples: int, layers: Sequence[ConvLayer], sample_rate: int | None = None) -> FrameTimes:
    """Return where the frames of a clip lie.

    Args:
        num_samples: length of the clip.
        layers: the convolutions that make frames of samples, `model.conv_layers`.
        sample_rate: samples per second, if known.
    """
    stride, field = total_stride(layers), receptive_field(layers)
    start = np.arange(frame_lengths(num_samples, layers), dtype=np.int64) * stride
    rate = None if sample_rate is None else sample_rate / stride
    centre = np.asarray(start + field / 2, dtype=np.float64)
    return FrameTimes(start, start + field, centre, stride, rate, sample_rate)
