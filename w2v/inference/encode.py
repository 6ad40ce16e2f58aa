"""The engine: run a function of a model over many clips, and give back frames clip by clip.

Clips are read in threads, some batches ahead; those of similar length share a batch, and what is too long for one goes
through in windows. Memory depends on the largest batch, not on the corpus. Frames are those of the clip alone: padding
is never seen (see `functional/padding`), so the batch matters to the rounding of numbers only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from w2v.data.audio import Samples, normalize, read_audio
from w2v.data.batch_sampler import batch_by_size, length_order
from w2v.data.manifest import Manifest
from w2v.errors import ConfigError, DataError
from w2v.functional.conv_spec import ConvLayer, receptive_field, total_stride
from w2v.functional.windows import Piece
from w2v.models.base import CONTEXT, W2vModel, layer_choice
from w2v.types import BoolArray, IntArray

Array = npt.NDArray[Any]
Encode = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(B, S) samples and (B,) lengths or None -> (B, T, ...) frames and (B,) true frames or None."""
Cut = Callable[[int], list[Piece]]

BATCHES_AHEAD = 2
EXPECTED = 8  # batches whose clips are fetched together from a server
NO_QUANTIZER = "the model has no quantizer: tokens need --vq-type gumbel or kmeans, or --quantize-targets"


@dataclass(frozen=True)
class Encoded:
    """What came of one clip.

    Attributes:
        row: row of the clip in its manifest.
        frames: (T, ...) on the CPU; None where the clip could not be encoded.
        num_samples: how long it is; 0 where it could not be read.
        reason: why it has no frames, in one line.
        is_short: whether it was only too short for a frame.
    """

    row: int
    frames: Array | None
    num_samples: int = 0
    reason: str = ""
    is_short: bool = False


def in_one(num_samples: int) -> list[Piece]:
    """Do not cut a clip."""
    return [Piece(0, num_samples, 0, 0)]


@dataclass(frozen=True)
class ClipEncoder:
    """How clips are read, batched and encoded.

    Attributes:
        encode: from samples to frames.
        layers: the convolutions that make frames of samples; () where the model does not tell.
        cut: how a clip is cut into pieces; one piece means that it goes into a batch with others.
        device: where `encode` computes.
        sample_rate: rate of the model, in Hz.
        normalize: give each clip zero mean and unit variance, as in training.
        normalize_epsilon: added to the variance.
        resample: convert other sample rates, and mix channels down, instead of refusing them.
        max_tokens: largest batch: clips x longest clip, in samples; 0: clip by clip.
        num_threads: files read at once.
        channel: of files with several channels, this one alone, from 1.
    """

    encode: Encode
    layers: tuple[ConvLayer, ...]
    cut: Cut
    device: torch.device
    sample_rate: int
    normalize: bool
    normalize_epsilon: float
    resample: bool
    max_tokens: int
    num_threads: int
    channel: int | None = None

    @property
    def frame_rate(self) -> float:
        """Frames per second; 0 where the model does not tell."""
        return self.sample_rate / total_stride(self.layers) if self.layers else 0.0

    def plan(self, manifest: Manifest, rows: Sequence[int] | None = None) -> list[IntArray]:
        """Return batches of rows, longest clips first; they follow from the sizes in the manifest alone.

        Args:
            manifest: the clips.
            rows: which of them; None: all.
        """
        chosen = np.arange(len(manifest)) if rows is None else np.asarray(rows, dtype=np.int64)
        sizes = manifest.sizes[chosen]
        plan = batch_by_size(length_order(sizes, None), sizes, max_tokens=self.max_tokens, multiple=1)
        # A clip over the budget goes alone, in pieces or, if that was asked for, in one.
        alone = [plan.skipped[i : i + 1] for i in range(plan.num_skipped)]
        return [chosen[batch] for batch in alone + plan.batches]

    def run(
        self, manifest: Manifest, batches: Sequence[IntArray], wanted: BoolArray | None = None
    ) -> Iterator[list[Encoded]]:
        """Encode clips, batch by batch; the results of a batch are in its order.

        Args:
            manifest: where the clips are.
            batches: rows of each batch.
            wanted: (N,) rows that are given back; None: all. A batch is computed with all of its clips, so that a run
                that resumes rounds as one that was never ended.
        """
        with ThreadPoolExecutor(max(self.num_threads, 1)) as pool:
            waiting: deque[list[tuple[int, Future[Samples]]]] = deque()
            try:
                for number, batch in enumerate([*batches, *[None] * BATCHES_AHEAD]):
                    if number % EXPECTED == 0 and batch is not None:
                        manifest.expect(int(row) for some in batches[number : number + EXPECTED] for row in some)
                    if batch is not None:
                        waiting.append([(row, pool.submit(self._read, manifest, row)) for row in batch.tolist()])
                    if waiting and (batch is None or len(waiting) > BATCHES_AHEAD):
                        yield self._encode_batch(waiting.popleft(), wanted)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def encode_clips(self, clips: Sequence[Samples]) -> list[Encoded]:
        """Encode the samples (S,) of clips in memory, which must fit into one batch where they are not cut.

        They are at the model's rate, and normalised where it wants that; `row` counts them from 0.
        """
        found = [self._unfit(row, samples) for row, samples in enumerate(clips)]
        fit = [row for row, failure in enumerate(found) if failure is None]
        pieces = {row: self.cut(len(clips[row])) for row in fit}
        frames = {row: self._encode_pieces(clips[row], pieces[row]) for row in fit if len(pieces[row]) > 1}
        together = [row for row in fit if row not in frames]
        if together:
            frames.update(zip(together, self._forward([clips[row] for row in together]), strict=True))
        return [failure or Encoded(row, frames[row], len(clips[row])) for row, failure in enumerate(found)]

    def frames_of(self, samples: Samples) -> Array:
        """Return the frames of one clip (S,) at the model's rate, which is normalised here where that is wanted.

        Raises:
            DataError: it is shorter than a frame.
        """
        (found,) = self.encode_clips([self._normalized(samples)])
        if found.frames is None:
            raise DataError(found.reason)
        return found.frames

    def _read(self, manifest: Manifest, row: int) -> Samples:
        path, offset, frames = manifest.stretch(row)
        samples = read_audio(
            path, self.sample_rate, resample=self.resample, start=offset or 0, frames=frames, channel=self.channel
        )
        return self._normalized(samples)

    def _normalized(self, samples: Samples) -> Samples:
        return normalize(samples, self.normalize_epsilon) if self.normalize else samples

    def _encode_batch(self, batch: list[tuple[int, Future[Samples]]], wanted: BoolArray | None) -> list[Encoded]:
        read: list[tuple[int, Samples]] = []
        found: dict[int, Encoded] = {}
        for row, future in batch:
            try:
                read.append((row, future.result()))
            except DataError as e:
                found[row] = Encoded(row, None, reason=str(e))
        if wanted is not None and not any(wanted[row] and not self._unfit(row, samples) for row, samples in read):
            read = [(row, samples) for row, samples in read if self._unfit(row, samples)]  # nothing to be computed
        encoded = self.encode_clips([samples for _, samples in read])
        found.update((row, replace(clip, row=row)) for (row, _), clip in zip(read, encoded, strict=True))
        return [found[row] for row, _ in batch if row in found and (wanted is None or wanted[row])]

    def _unfit(self, row: int, samples: Samples) -> Encoded | None:
        """Return what is said of a clip that is too short for a frame."""
        shortest = receptive_field(self.layers) if self.layers else 1
        if len(samples) >= shortest:
            return None
        reason = f"{len(samples)} samples, one frame needs {shortest}"
        return Encoded(row, None, len(samples), reason, is_short=True)

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
                frames = self._forward([samples[piece.start : piece.stop] for piece in some])
                kept += [part[p.skip : p.skip + p.keep] for p, part in zip(some, frames, strict=True)]
        return np.concatenate(kept)

    @torch.inference_mode()
    def _forward(self, clips: Sequence[Samples]) -> list[Array]:
        """Return the frames (T, ...) of clips (S,) that share a batch."""
        source, lengths = pad_clips(clips)
        if not self.layers and source.shape[1] < self.sample_rate // 10:
            # Shorter than a frame, perhaps, which convolutions refuse. Padding changes no clip's output.
            source = F.pad(source, (0, self.sample_rate - source.shape[1]))
        is_padded = bool((lengths < source.shape[1]).any())
        frames, true_frames = self.encode(source.to(self.device), lengths if is_padded else None)
        arrays: Array = frames.cpu().numpy()
        if true_frames is None:
            return list(arrays)
        return [array[:length] for array, length in zip(arrays, true_frames.tolist(), strict=True)]


def pad_clips(clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
    """Return clips (S,) as rows of (B, longest S), zeros behind them, and the samples (B,) of each."""
    lengths = torch.tensor([len(clip) for clip in clips])
    source = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in enumerate(clips):
        source[row, : len(clip)] = torch.from_numpy(clip)
    return source, lengths


def conv_stack(model: W2vModel) -> tuple[ConvLayer, ...]:
    """Return the convolutions that turn samples into the model's frames, for what cannot do without them.

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
    if model.codebook_size == (0, 0):
        raise ConfigError(NO_QUANTIZER)
    return model.extract_codes


def frame_tokens(codes: Array) -> list[str]:
    """Return the token of each frame of codes (T, G): those of its groups, joined by `-`, such as `14-12`."""
    return ["-".join(map(str, frame)) for frame in codes.tolist()]
