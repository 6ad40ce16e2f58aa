"""What a model makes of clips, all at once: every layer's frames, codes and log-probabilities, in one forward pass.

`w2v-featurize` writes one layer of many clips; this is for looking at all layers of a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.functional.conv_spec import ConvLayer, receptive_field, total_stride
from w2v.inference.encode import conv_stack, pad_clips
from w2v.models.base import W2vModel
from w2v.models.wav2vec_ctc import Wav2VecCtc

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrameClock:
    """When the frames of a model are: each stands for one stride around the middle of what it sees.

    Attributes:
        sample_rate: in Hz.
        stride: samples from one frame to the next.
        field: samples that a frame sees.
    """

    sample_rate: int
    stride: int
    field: int

    @property
    def step(self) -> float:
        """Seconds per frame."""
        return self.stride / self.sample_rate

    @property
    def start(self) -> float:
        """Seconds at which frame 0 begins."""
        return (self.field - self.stride) / 2 / self.sample_rate

    def seconds(self, frame: float) -> float:
        """Return when a frame begins; half a frame later is its middle."""
        return self.start + frame * self.step


@dataclass(frozen=True)
class Activations:
    """What a model makes of one clip, on the CPU.

    Attributes:
        layers: (T, C) frames by name, from the bottom up: `z` the convolutions', `q` quantised, `1`, `2`, ... the
            transformer blocks', `c` the context.
        codes: (T, G) codes of the quantizer; None without one.
        log_probs: (T, V) log-probabilities of symbols; None without an output layer.
    """

    layers: dict[str, Floats]
    codes: Ints | None
    log_probs: Floats | None

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.layers["c"])


def frame_clock(model: W2vModel, sample_rate: int) -> FrameClock:
    """Return when a model's frames are.

    Raises:
        ConfigError: the model has no convolutions that this could be known from.
    """
    layers: Sequence[ConvLayer] = conv_stack(model)
    return FrameClock(sample_rate, total_stride(layers), receptive_field(layers))


@torch.inference_mode()
def activations(model: W2vModel, clips: Sequence[Floats]) -> list[Activations]:
    """Compute all that a model has to show of some clips.

    Args:
        model: in evaluation mode.
        clips: (S,) samples of each, at least one frame long, normalised where the model wants it.
    """
    source, lengths = pad_clips(clips)
    source = source.to(next(model.parameters()).device)
    padded = lengths if bool((lengths < source.shape[1]).any()) else None
    features = model.extract_features(source, padded, layers=model.layers)
    # A second pass of the convolutions, which only models with a quantizer pay for.
    codes = model.extract_codes(source, padded)[0] if model.codebook_size != (0, 0) else None
    log_probs = None
    if isinstance(model, Wav2VecCtc):
        log_probs = model.w2v_encoder.proj(features.features).float().log_softmax(dim=-1)
    counts = [features.features.shape[1]] * len(clips) if features.lengths is None else features.lengths.tolist()
    return [
        Activations(
            {name: _of_clip(frames, row, count) for name, frames in zip(model.layers, features.layers, strict=True)},
            None if codes is None else codes[row, :count].cpu().numpy(),
            None if log_probs is None else _of_clip(log_probs, row, count),
        )
        for row, count in enumerate(counts)
    ]


def _of_clip(frames: Tensor, row: int, count: int) -> Floats:
    array: Floats = frames[row, :count].float().cpu().numpy()
    return array
