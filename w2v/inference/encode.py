"""Run a trained model over many clips: read, batch by length, cut what is too long, give back frames clip by clip.

The common part of `w2v-featurize` and `w2v-tokenize`. Frames are those of the clip alone: padding is never seen (see
`functional/padding`), so the batch matters to the rounding of numbers only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.data.audio import Samples, normalize, read_audio
from w2v.data.batch_sampler import batch_by_size, length_order
from w2v.data.manifest import Manifest
from w2v.errors import ConfigError, DataError
from w2v.functional.conv_spec import ConvLayer, receptive_field, total_stride
from w2v.functional.windows import Piece
from w2v.models.base import CONTEXT, W2vModel, layer_choice

Array = npt.NDArray[Any]
Encode = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(B, S) samples and (B,) lengths or None -> (B, T, ...) frames and (B,) true frames or None."""
Cut = Callable[[int], list[Piece]]

BATCHES_AHEAD = 2
NO_QUANTIZER = "the model has no quantizer: tokens need --vq-type gumbel or kmeans, or --quantize-targets"


@dataclass(frozen=True)
class Encoded:
    """What came of one clip.

    Attributes:
        row: row of the clip in its manifest.
        frames: (T, ...) on the CPU; None where the clip could not be encoded.
        reason: why not, in one line.
        is_short: whether it was only too short for a frame.
    """

    row: int
    frames: Array | None
    reason: str = ""
    is_short: bool = False


@dataclass(frozen=True)
class ClipEncoder:
    """How clips are read, batched and encoded.

    Attributes:
        encode: from samples to frames.
        layers: the convolutions that make frames of samples.
        cut: how a clip is cut into pieces; one piece means that it goes into a batch with others.
        device: where `encode` computes.
        sample_rate: rate of the model, in Hz.
        normalize: give each clip zero mean and unit variance, as in training.
        resample: convert other sample rates, and mix channels down, instead of refusing them.
        max_tokens: largest batch: clips x longest clip, in samples; 0: clip by clip.
        num_threads: files read at once.
    """

    encode: Encode
    layers: tuple[ConvLayer, ...]
    cut: Cut
    device: torch.device
    sample_rate: int
    normalize: bool
    resample: bool
    max_tokens: int
    num_threads: int

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / total_stride(self.layers)

    def run(self, manifest: Manifest, rows: Sequence[int]) -> Iterator[Encoded]:
        """Encode clips, longest first.

        Args:
            manifest: where they are.
            rows: which of them.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        sizes = manifest.sizes[chosen]
        plan = batch_by_size(length_order(sizes, None), sizes, max_tokens=self.max_tokens, multiple=1)
        # A clip over the budget goes alone, in pieces or, if that was asked for, in one.
        batches = [plan.skipped[i : i + 1] for i in range(plan.num_skipped)] + plan.batches
        with ThreadPoolExecutor(self.num_threads) as pool:
            waiting: deque[list[tuple[int, Future[Samples]]]] = deque()
            try:
                for batch in [*batches, *[None] * BATCHES_AHEAD]:
                    if batch is not None:
                        rows_here = chosen[batch].tolist()
                        waiting.append([(row, pool.submit(self._read, manifest.path(row))) for row in rows_here])
                    if waiting and (batch is None or len(waiting) > BATCHES_AHEAD):
                        yield from self._encode_batch(waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def frames_of(self, samples: Samples) -> Array:
        """Return the frames of one clip (S,).

        Raises:
            DataError: it is shorter than a frame.
        """
        shortest = receptive_field(self.layers)
        if len(samples) < shortest:
            raise DataError(f"{len(samples)} samples, one frame needs {shortest}")
        return self._encode_pieces(normalize(samples) if self.normalize else samples, self.cut(len(samples)))

    def _read(self, path: str) -> Samples:
        samples = read_audio(path, self.sample_rate, resample=self.resample)
        return normalize(samples) if self.normalize else samples

    def _encode_batch(self, batch: list[tuple[int, Future[Samples]]]) -> Iterator[Encoded]:
        together: list[tuple[int, Samples]] = []
        shortest = receptive_field(self.layers)
        for row, future in batch:
            try:
                samples = future.result()
            except DataError as e:
                yield Encoded(row, None, str(e))
                continue
            if len(samples) < shortest:
                yield Encoded(row, None, f"{len(samples)} samples, one frame needs {shortest}", is_short=True)
            elif len(pieces := self.cut(len(samples))) > 1:
                yield Encoded(row, self._encode_pieces(samples, pieces))
            else:
                together.append((row, samples))
        if together:
            frames = self._encode_samples([samples for _, samples in together])
            yield from (Encoded(row, part) for (row, _), part in zip(together, frames, strict=True))

    def _encode_pieces(self, samples: Samples, pieces: Sequence[Piece]) -> Array:
        """Return the frames of one clip that was cut into pieces; pieces of one size share batches."""
        kept: list[Array] = []
        for size, same_size in groupby(pieces, key=lambda piece: piece.num_samples):
            group = list(same_size)
            if size < receptive_field(self.layers):
                continue
            at_once = max(self.max_tokens // size, 1)
            for first in range(0, len(group), at_once):
                some = group[first : first + at_once]
                frames = self._encode_samples([samples[piece.start : piece.stop] for piece in some])
                kept += [part[p.skip : p.skip + p.keep] for p, part in zip(some, frames, strict=True)]
        return np.concatenate(kept)

    @torch.inference_mode()
    def _encode_samples(self, clips: Sequence[Samples]) -> list[Array]:
        lengths = torch.tensor([len(clip) for clip in clips])
        source = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in enumerate(clips):
            source[row, : len(clip)] = torch.from_numpy(clip)
        is_padded = bool((lengths < source.shape[1]).any())
        frames, true_frames = self.encode(source.to(self.device), lengths if is_padded else None)
        arrays: Array = frames.cpu().numpy()
        if true_frames is None:
            return list(arrays)
        return [array[:length] for array, length in zip(arrays, true_frames.tolist(), strict=True)]


def conv_stack(model: W2vModel) -> tuple[ConvLayer, ...]:
    """Return the convolutions that turn samples into the model's frames.

    Raises:
        ConfigError: the model does not say.
    """
    if not model.conv_layers:
        raise ConfigError(f"{type(model).__name__} does not say by which convolutions its frames are made: conv_layers")
    return model.conv_layers


def feature_function(model: W2vModel, layer: str) -> Encode:
    """Return what computes the frames of a layer, one of `model.layers`.

    Raises:
        ConfigError: the model has no such layer.
    """
    if layer != CONTEXT and layer not in model.layers:
        raise ConfigError(f"--layer must be {layer_choice(model)} for this model, got {layer!r}")

    def frames(source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # A model from outside may know no other layer, and no such argument.
        chosen: dict[str, Any] = {} if layer == CONTEXT else {"layer": layer}
        features = model.extract_features(source, lengths, **chosen)
        return features.features, features.lengths

    return frames


def code_function(model: W2vModel) -> Encode:
    """Return what computes the codes (B, T, G) of a model's quantizer.

    Raises:
        ConfigError: the model has no quantizer.
    """
    codebook_size(model)
    return model.extract_codes


def codebook_size(model: W2vModel) -> tuple[int, int]:
    """Return the groups of a model's quantizer and the codewords per group.

    Raises:
        ConfigError: the model has no quantizer.
    """
    if model.codebook_size == (0, 0):
        raise ConfigError(NO_QUANTIZER)
    return model.codebook_size
