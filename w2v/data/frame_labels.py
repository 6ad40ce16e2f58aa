"""Classes at a steady rate beside clips of audio, cut as the audio is cut (HuBERT).

Line i of a label file belongs to clip i of the manifest: `17 17 3 ...`, one class per label, at `--label-rate`. A
`SPLIT.LABELS.json` beside it, which `w2v-kmeans` writes, tells which k-means model the classes are from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.array_types import IntArray
from w2v.data.dataset import AudioDataset, ReadReport
from w2v.data.labels import Labels
from w2v.data.manifest import Manifest
from w2v.errors import DataError
from w2v.types import FrameLabelBatch

TOLERANCE = 0.1  # s by which the labels of a clip may be longer or shorter than its audio
MOST_OFF = 0.01  # share of clips for which they may be


class FrameLabelDataset(AudioDataset):
    """Clips, and label sets at one rate.

    Args:
        manifest: the clips.
        label_sets: per set, one entry per line of the manifest.
        label_rate: labels per second.
        random_crop: crop at random; otherwise from the first sample.
        reading: further arguments of `AudioDataset`.

    Raises:
        DataError: the labels of more than 1 % of the clips are not as long as the audio.
    """

    def __init__(
        self, manifest: Manifest, label_sets: Sequence[Labels], label_rate: float, *, random_crop: bool, **reading: Any
    ) -> None:
        super().__init__(manifest, **reading)
        self.label_rate = label_rate
        self.random_crop = random_crop
        self.label_sets = [labels.take(self.rows) for labels in label_sets]
        for labels in self.label_sets:
            check_durations(labels, self.sizes, label_rate, self.sample_rate)

    def load(self, indices: Sequence[int] | IntArray, seed: int) -> tuple[FrameLabelBatch, ReadReport]:
        batch, report = super().load(indices, seed)
        sets = [
            label_windows(
                [labels[index] for index in batch.indices.tolist()], batch.starts, batch.source.shape[1],
                self.label_rate / self.sample_rate, pad=self.pad, fill=labels.pad,
            )
            for labels in self.label_sets
        ]  # fmt: skip
        rows, lengths = zip(*sets, strict=True)
        return FrameLabelBatch(**{**vars(batch), "frame_labels": rows, "label_lengths": lengths}), report

    def _windows(self, indices: IntArray, lengths: Sequence[int], seed: int) -> tuple[int, list[int]]:
        width, starts = super()._windows(indices, lengths, seed)
        return width, starts if self.random_crop else [0] * len(starts)


def label_windows(
    labels: Sequence[npt.NDArray[np.int32]],
    starts: Sequence[int],
    width: int,
    per_sample: float,
    *,
    pad: bool,
    fill: int = 1,
) -> tuple[Tensor, Tensor]:
    """Cut labels as audio was cut, draw for draw and rounding for rounding as the original.

    Args:
        labels: ids of each clip.
        starts: first sample of each clip's window.
        width: samples per window.
        per_sample: labels per sample.
        pad: windows may end after their clips; otherwise all have as many labels as the one with the fewest.
        fill: id after the last label.

    Returns:
        (B, L) int64, where L is at least 1, and (B,) int64 true labels.
    """
    # Half to even: a start of 240 samples at 50 Hz is label 0.75, so 1; one of 160 is 0.5, so 0.
    firsts = [round(start * per_sample) for start in starts]
    count = round(width * per_sample)
    if not pad:
        count = min(count, *(len(ids) - first for ids, first in zip(labels, firsts, strict=True)))
    windows = [ids[first : first + max(count, 0)] for ids, first in zip(labels, firsts, strict=True)]
    rows = np.full((len(windows), max(1, *map(len, windows))), fill, dtype=np.int64)
    for row, window in zip(rows, windows, strict=True):
        row[: len(window)] = window
    return torch.from_numpy(rows), torch.tensor([len(window) for window in windows])


def check_durations(labels: Labels, sizes: IntArray, label_rate: float, sample_rate: int) -> None:
    """Check that labels and audio are equally long.

    Raises:
        DataError: they are not, by more than 0.1 s, in more than 1 % of the clips; says which rate would fit.
    """
    counts, seconds = np.diff(labels.offsets), sizes / sample_rate
    off = np.abs(seconds - counts / label_rate) > TOLERANCE
    if off.mean() > MOST_OFF:
        first = int(np.argmax(off))
        raise DataError(
            f"{labels.source}: {off.sum()} of {len(off)} clips have labels for another duration at --label-rate "
            f"{label_rate:g}, such as {counts[first]} labels for {seconds[first]:.2f} s; they look like about "
            f"{counts.sum() / seconds.sum():.3g} per second"
        )


def read_header(path: Path) -> dict[str, Any]:
    """Return what `w2v-kmeans` wrote beside a label file; nothing where there is no such file.

    Raises:
        DataError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise DataError(f"{path}: is no JSON: {e}") from e
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object")
    return content
