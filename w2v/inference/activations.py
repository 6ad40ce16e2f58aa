"""What a model makes of clips, all at once: every layer's frames, codes and log-probabilities, in one forward pass.

`w2v-featurize` writes one layer of many clips; this is for looking at all layers of a few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from w2v.errors import ConfigError
from w2v.functional.conv_spec import ConvLayer, receptive_field, total_stride
from w2v.inference.encode import conv_stack
from w2v.models.base import W2vModel
from w2v.models.wav2vec import Wav2VecModel
from w2v.models.wav2vec2 import Wav2Vec2Model
from w2v.models.wav2vec2_encoder import Masks, Wav2Vec2Encoder
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
    device = next(model.parameters()).device
    lengths = torch.tensor([len(clip) for clip in clips])
    source = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in enumerate(clips):
        source[row, : len(clip)] = torch.from_numpy(clip)
    padded = lengths if bool((lengths < source.shape[1]).any()) else None
    layers, codes, log_probs, frames = _compute(model, source.to(device), padded)
    counts = [layers["c"].shape[1]] * len(clips) if frames is None else frames.tolist()
    return [
        Activations(
            {name: _of_clip(frames, row, count) for name, frames in layers.items()},
            None if codes is None else _of_clip(codes, row, count).astype(np.int64),
            None if log_probs is None else _of_clip(log_probs, row, count),
        )
        for row, count in enumerate(counts)
    ]


_Computed = tuple[dict[str, Tensor], Tensor | None, Tensor | None, Tensor | None]
"""Layers, (B, T, G) codes, (B, T, V) log-probabilities and (B,) true frames."""


def _compute(model: W2vModel, source: Tensor, lengths: Tensor | None) -> _Computed:
    if isinstance(model, Wav2VecModel):
        return _compute_wav2vec(model, source, lengths)
    encoder = next((module for module in model.modules() if isinstance(module, Wav2Vec2Encoder)), None)
    if encoder is None:
        features = model.extract_features(source, lengths)
        return {"c": features.features}, None, None, features.lengths
    frames = encoder.frames(source, lengths)
    with _outputs_of(encoder.feature_extractor) as latent:
        encoded = encoder.encode(source, lengths, frames, Masks(), seed=0, with_layers=True)
    layers = {"z": torch.cat(latent)} | {str(n): layer for n, layer in enumerate(encoded.layers, 1)}
    layers["c"] = encoded.context
    codes = log_probs = None
    if isinstance(model, Wav2Vec2Model) and model.quantizer is not None:
        codes = model.quantizer(encoded.features).codes
    elif encoded.quantized is not None:
        codes = encoded.quantized.codes
    if isinstance(model, Wav2VecCtc):
        log_probs = model.w2v_encoder.proj(encoded.context).float().log_softmax(dim=-1)
    return layers, codes, log_probs, frames.lengths


def _compute_wav2vec(model: Wav2VecModel, source: Tensor, lengths: Tensor | None) -> _Computed:
    latent = model.latent_features(source, lengths)
    context = model.extract_features(source, lengths)
    layers, codes = {"z": latent.features}, None
    if model.vector_quantizer is not None:
        layers["q"] = model.quantized_features(source, lengths).features
        codes = model.extract_codes(source, lengths)[0]
    return {**layers, "c": context.features}, codes, None, context.lengths


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module returns, instead of computing it once more; clip by clip if it is called so."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def _of_clip(frames: Tensor, row: int, count: int) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = frames[row, :count].cpu().numpy()
    return array


def main_layers(model: W2vModel) -> tuple[str, ...]:
    """Return the two or three layers that tell a model's kind: latent frames, quantised ones, context."""
    if isinstance(model, Wav2VecModel):
        return ("z", "c") if model.vector_quantizer is None else ("z", "q", "c")
    try:
        conv_stack(model)
    except ConfigError:
        return ("c",)
    return ("z", "c")
