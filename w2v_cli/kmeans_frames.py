"""Where `w2v-kmeans` takes frames from: clips of manifests, or feature files of the original's scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.array_types import IntArray
from w2v.convert.locate import fingerprint
from w2v.data.manifest import Manifest, read_manifest
from w2v.data.text_file import read_lines
from w2v.errors import DataError
from w2v.functional.conv_spec import frame_lengths
from w2v.functional.mfcc import mfcc
from w2v.functional.windows import overlapping_windows
from w2v.inference.encode import ClipEncoder, conv_stack, feature_function
from w2v.inference.load import load_model
from w2v_cli.clips import ClipOptions, clip_encoder

MFCC_LAYERS = ((39, 400, 160),)  # as a convolution: frames of 400 samples, one for every 160
MFCC_RATE = 16000
CONTEXT = 64_000  # samples at both ends of a window that only serve as context


@dataclass(frozen=True)
class EncodedFrames:
    """Frames of clips, computed: MFCC, or a layer of a model.

    Attributes:
        encoder: from clips to frames.
        data: folder of the manifests.
        about: what they are, in plain values; `label_rate` among them.
        allow_outside_root: see `read_manifest`.
    """

    encoder: ClipEncoder
    data: Path
    about: dict[str, Any]
    allow_outside_root: bool = False

    def clips(self, split: str) -> Manifest:
        """Return the clips of a split."""
        manifest = read_manifest(self.data / f"{split}.tsv", allow_outside_root=self.allow_outside_root)
        manifest.check_root()
        return manifest

    def sample(self, split: str, percent: float, rng: np.random.RandomState) -> npt.NDArray[np.float32]:
        """Return (N, C) frames of a share of the clips of a split, drawn at random; below 0: of all."""
        manifest = self.clips(split)
        rows = drawn(len(manifest), percent, rng)
        counts: IntArray = frame_lengths(torch.from_numpy(manifest.sizes[rows]), self.encoder.layers).numpy()
        places = np.concatenate([[0], np.cumsum(counts)])
        number = {row: place for place, row in enumerate(rows.tolist())}
        frames, filled = np.zeros((0, 0), dtype=np.float32), np.zeros(places[-1], dtype=np.bool_)
        # Longest clips first, each to its place in the order drawn: memory holds the sample, once.
        for batch in self.encoder.run(manifest, self.encoder.plan(manifest, rows.tolist())):
            for clip in batch:
                if clip.frames is None:
                    continue  # told of where its classes are missed
                if not frames.size:
                    frames = np.zeros((places[-1], clip.frames.shape[1]), dtype=np.float32)
                first = places[number[clip.row]]
                size = min(len(clip.frames), counts[number[clip.row]])
                frames[first : first + size] = clip.frames[:size]
                filled[first : first + size] = True
        return frames if filled.all() else frames[filled[: len(frames)]]


@dataclass(frozen=True)
class FeatureFiles:
    """Frames that the original's `dump_*_feature.py` wrote: `SPLIT_RANK_NSHARD.npy` and `.len`.

    Attributes:
        folder: where they are.
        about: as of `EncodedFrames`.
    """

    folder: Path
    about: dict[str, Any]

    def shards(self, split: str) -> list[tuple[npt.NDArray[np.float32], IntArray]]:
        """Return frames (N, C), left in their file, and frames per clip, of each shard.

        Raises:
            DataError: a file is missing, or does not fit the other one.
        """
        found = []
        paths = sorted(self.folder.glob(f"{split}_*_*.npy"), key=lambda path: int(path.stem.split("_")[-2]))
        total = int(paths[0].stem.split("_")[-1]) if paths else 0
        if not paths or len(paths) != total:
            raise DataError(f"{self.folder}: holds {len(paths)} of the {total} files {split}_RANK_{total or 'N'}.npy")
        for path in paths:
            try:
                frames = np.load(path, mmap_mode="r", allow_pickle=False)
                lengths = np.array([int(line) for line in read_lines(path.with_suffix(".len"), "list of lengths")])
            except (OSError, ValueError) as e:
                raise DataError(f"{path}: cannot be read: {e}") from e
            if frames.ndim != 2 or lengths.sum() != len(frames):
                raise DataError(f"{path}: holds {frames.shape} values, but its .len counts {lengths.sum()} frames")
            found.append((frames, lengths))
        return found

    def sample(self, split: str, percent: float, rng: np.random.RandomState) -> npt.NDArray[np.float32]:
        """Return frames as `EncodedFrames.sample` does; the share is drawn from each shard."""
        parts = []
        for frames, lengths in self.shards(split):
            ends = np.cumsum(lengths)
            rows = drawn(len(lengths), percent, rng)
            parts += [np.asarray(frames[ends[row] - lengths[row] : ends[row]]) for row in rows.tolist()]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def all_clips(self, split: str) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the frames of each clip, in order."""
        for frames, lengths in self.shards(split):
            ends = np.cumsum(lengths)
            for end, length in zip(ends.tolist(), lengths.tolist()):
                yield np.asarray(frames[end - length : end])


Frames = EncodedFrames | FeatureFiles


def drawn(count: int, percent: float, rng: np.random.RandomState) -> IntArray:
    """Return which of `count` clips are taken, in the order drawn; as the original draws them."""
    if percent < 0:
        return np.arange(count)
    return np.asarray(rng.choice(count, math.ceil(count * percent), replace=False), dtype=np.int64)


def mfcc_frames(config: ClipOptions, data: Path, device: torch.device) -> EncodedFrames:
    """Return the MFCC of clips at 16 kHz."""

    def encode(source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        sizes = [source.shape[1]] * len(source) if lengths is None else lengths.tolist()
        found = [torch.from_numpy(mfcc(row[:size].numpy(), MFCC_RATE)) for row, size in zip(source, sizes)]
        counts = torch.tensor([len(frames) for frames in found])
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), counts

    encoder = ClipEncoder(
        encode=encode, layers=MFCC_LAYERS, cut=partial(overlapping_windows, layers=MFCC_LAYERS, max_size=0, context=0),
        device=torch.device("cpu"), sample_rate=MFCC_RATE, normalize=False, normalize_epsilon=0.0,
        resample=config.resample, max_tokens=0, num_threads=config.num_workers,
    )  # fmt: skip
    return EncodedFrames(encoder, data, {"features": "mfcc", "label_rate": 100.0}, config.allow_outside_root)


def model_frames(config: ClipOptions, data: Path, device: torch.device, model: str, layer: str) -> EncodedFrames:
    """Return the frames of a layer of a model.

    Raises:
        W2vError: the model cannot be read, or has no such layer.
    """
    loaded = load_model(model, user_dir=config.user_dir)
    layers = conv_stack(loaded.model)
    # Differs from the original, which cuts long clips without overlap and so loses frames at each cut.
    cut = partial(overlapping_windows, layers=layers, max_size=config.max_size, context=CONTEXT)
    encoder = clip_encoder(config, loaded, device, encode=feature_function(loaded.model, layer), cut=cut)
    about = {"features": f"layer {layer}", "model": fingerprint(model), "label_rate": encoder.frame_rate}
    return EncodedFrames(encoder, data, about, config.allow_outside_root)
