"""Clips and labels of one split, and batches of them.

A batch follows from (indices, seed) alone, so any worker can make it. Pretraining crops all clips of a batch to one
width; fine-tuning pads them. A file that cannot be read does not end a training run: the clip is replaced by
another one, named once, counted, and only a data set that is bad in more than a few places stops the run.
Order and size of batches are decided in `batch_sampler`, epochs in `iterator`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from w2v.data import worker_limits
from w2v.data.audio import NORMALIZE_EPSILON, Samples, centre, normalize, read_audio, read_window
from w2v.data.augment import Augmentation
from w2v.data.batch_sampler import PaddingStats, padding_stats
from w2v.data.labels import Labels
from w2v.data.manifest import Manifest
from w2v.data.speed import Speeds, length_at, played, stretch_behind
from w2v.errors import DataError, listed
from w2v.rng import numpy_generator, seed_from
from w2v.shards.member import Member, Source
from w2v.types import AudioBatch, AudioExample, Batch, IntArray

logger = logging.getLogger(__name__)


MAX_BAD_SHARE = 0.01
MIN_BAD_CLIPS = 5  # a share means nothing in a tiny data set
MAX_BAD_SO_FAR = 0.1  # of the clips read so far: bad clips may come together, as clips of one length do
MANY_BAD_CLIPS = 20  # before the share of those read so far says anything
MAX_TRIES = 100  # a folder that has gone away should stop the run soon
LENGTH_TOLERANCE = 0.01  # headers of compressed files are off by a block
LONG_CLIP = 1 << 22  # samples, 262 s at 16 kHz: above, a worker holds one clip at a time


class BatchDataset:
    """What the iterator needs of a data set; base class for data sets of plugins."""

    def batch(self, indices: Sequence[int] | IntArray, seed: int) -> Batch:
        """Return a batch that depends on nothing but `indices` and `seed`."""
        raise NotImplementedError

    def load(self, indices: Sequence[int] | IntArray, seed: int) -> tuple[Batch, Any]:
        """Return a batch and what the main process must know about it; called in worker processes."""
        return self.batch(indices, seed), None

    def batch_seed(self, seed: int, epoch: int | str, number: int) -> int:
        """Return the seed of a batch; all that is random in it follows from that.

        Args:
            seed: `--seed`.
            epoch: the epoch of training, or the name of a split that is validated.
            number: of the batch.
        """
        return seed_from(seed, epoch, number)

    @property
    def looks_ahead(self) -> bool:
        """Whether `expect` is of use."""
        return False

    def expect(self, indices: IntArray) -> None:
        """Get ready for clips of the next batches, in their order; called in worker processes."""

    def record(self, report: Any) -> None:
        """Take notice of a report of `load`; called in the main process, in order of the batches."""

    def batch_bytes(self, batches: Sequence[IntArray]) -> int:
        """Return the size of the largest of `batches`; 0 where it is small, or cannot be said."""
        return 0

    def waste(self, batches: Sequence[IntArray]) -> PaddingStats | None:
        """Return what an epoch of `batches` would waste; None where that cannot be said."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know of the reports so far."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, for the same batches."""


@dataclass
class ReadReport:
    """What went wrong while a batch was read.

    Attributes:
        num_read: clips tried.
        bad: index -> reason, for clips that could not be read.
        lengths: index -> decoded samples, where the manifest says something else.
    """

    num_read: int = 0
    bad: dict[int, str] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)


class AudioDataset(BatchDataset):
    """Clips of a manifest, with labels or without.

    Clips are numbered from 0 after the dropping of too short ones; `rows` leads back to lines of the manifest.

    Args:
        manifest: the clips.
        labels: one entry per line of the manifest.
        sample_rate: rate in Hz that every clip must have, or is brought to.
        max_sample_size: crop to this many samples. With labels, longer clips are dropped and counted instead.
            Differs from the original, which then trains on part of the audio with all of its text.
        min_sample_size: drop clips that are shorter, in samples; labels are dropped with them. The original's
            README release shifts labels against audio here.
        max_keep_size: drop clips that are longer, in samples.
        pad: pad clips to the longest of a batch instead of cropping them to the shortest; always so with labels.
        normalize: bring each clip to zero mean and unit variance, before any crop.
        normalize_epsilon: added to the variance.
        resample: convert other rates and mix channels down, instead of refusing the file.
        channel: take this channel alone, from 1.
        replace_unreadable: replace a clip that cannot be read by the next one that can; otherwise raise.
        max_bad: share of clips that may be unreadable.
        impossible: (lines of the manifest,) bool, clips whose labels do not fit into their frames: they are dropped.

    Attributes:
        sizes: (N,) samples per clip, as the manifest has them.
        lengths: (N,) cost of each clip in a batch, in samples: its size, or where it is cropped its cropped size.
        rows: (N,) line of each clip in the manifest, from 0.
        num_skipped: clips dropped for their length, or for labels that do not fit.
        augmentation: random changes of each batch; None: none. Set by `augmented`.
        speeds: how fast clips may be played; None: as they are. Set by `augmented`.
        bad: index -> reason, of clips found unreadable so far.

    Raises:
        DataError: the root folder is missing, labels and manifest differ in length, or no clip is left.
    """

    def __init__(
        self,
        manifest: Manifest,
        labels: Labels | None = None,
        *,
        sample_rate: int = 16000,
        max_sample_size: int | None = None,
        min_sample_size: int | None = None,
        max_keep_size: int | None = None,
        pad: bool = False,
        normalize: bool = False,
        normalize_epsilon: float = NORMALIZE_EPSILON,
        resample: bool = False,
        channel: int | None = None,
        replace_unreadable: bool = True,
        impossible: npt.NDArray[np.bool_] | None = None,
        max_bad: float = MAX_BAD_SHARE,
    ) -> None:
        manifest.check_root()
        if labels is not None and len(labels) != len(manifest):
            raise DataError(
                f"{labels.source or 'labels'}: {len(labels)} entries for the {len(manifest)} clips of {manifest.source}"
            )
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.max_sample_size = max_sample_size
        self.min_sample_size = min_sample_size or 0
        self.pad = pad or labels is not None
        self.normalize = normalize
        self.normalize_epsilon = normalize_epsilon
        self.resample = resample
        self.channel = channel
        self.replace_unreadable = replace_unreadable
        self.max_bad = max_bad
        self.num_too_short = self.num_too_long = self.num_impossible = 0
        longest = max_sample_size if max_keep_size is None and labels is not None else max_keep_size
        self.rows = self._rows_kept(longest, impossible)
        self.labels = labels if labels is None or not self.num_skipped else labels.take(self.rows)
        self.sizes: IntArray = manifest.sizes[self.rows]
        self.lengths: IntArray = self.sizes
        if max_sample_size is not None and not self.pad:
            self.lengths = np.minimum(self.sizes, max_sample_size)
        self.augmentation: Augmentation | None = None
        self.speeds: Speeds | None = None
        self.bad: dict[int, str] = {}
        self.num_read = 0
        self._length_warned = False
        self._loaded: tuple[int, Source] = -1, ""
        self._clip: Samples = np.empty(0, dtype=np.float32)  # kept: fresh memory takes as long as reading a file

    def _rows_kept(self, longest: int | None, impossible: npt.NDArray[np.bool_] | None) -> IntArray:
        sizes = self.manifest.sizes
        keep = sizes >= self.min_sample_size
        self.num_too_short = int((~keep).sum())
        if longest is not None:
            too_long = sizes > longest
            self.num_too_long = int((too_long & keep).sum())
            keep &= ~too_long
        if impossible is not None:
            self.num_impossible = int((impossible & keep).sum())
            keep &= ~impossible
        rows: IntArray = np.flatnonzero(keep)
        if not len(rows):
            raise DataError(
                f"{self.manifest.source}: all {len(sizes)} clips are dropped: {self.num_too_short} are under "
                f"--min-sample-size {self.min_sample_size}, {self.num_too_long} too long, "
                f"{self.num_impossible} have more symbols than frames"
            )
        return rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_skipped(self) -> int:
        return self.num_too_short + self.num_too_long + self.num_impossible

    def augmented(
        self, augmentation: Augmentation, *, shortest: IntArray | None = None, max_tokens: int | None = None
    ) -> AudioDataset:
        """Return the same clips with random changes in every batch; this one stays as it is.

        Args:
            augmentation: what is changed. Where speed is, `lengths` become those of the slowest.
            shortest: (N,) samples that each clip must keep at any speed; None: `min_sample_size`.
            max_tokens: samples of a batch; a clip that fits there fits at any speed.
        """
        changed = copy.copy(self)
        changed.augmentation = augmentation if augmentation.is_on else None
        if augmentation.changes_speed:
            if shortest is None:
                shortest = np.full(len(self), self.min_sample_size)
            # With labels no clip is cropped, so none may outgrow --max-sample-size; where all are, none can.
            limits = [max_tokens, self.max_sample_size if self.labels is not None else None]
            crop = None if self.pad else self.max_sample_size
            longest = min((limit for limit in limits if limit is not None and crop is None), default=None)
            changed.speeds = Speeds(*augmentation.speed, shortest, longest)
            changed.lengths = changed.speeds.most_samples(self.sizes)
            if crop is not None:
                changed.lengths = np.minimum(changed.lengths, crop)
        return changed

    @property
    def looks_ahead(self) -> bool:
        return self.manifest.store is not None

    def expect(self, indices: IntArray) -> None:
        self.manifest.expect(self.rows[indices].tolist())

    def batch_bytes(self, batches: Sequence[IntArray]) -> int:
        return max((len(batch) * int(self.lengths[batch].max()) * 4 for batch in batches if len(batch)), default=0)

    def name(self, index: int) -> str:
        """Return the path of a clip relative to the manifest's root."""
        return self.manifest.name(int(self.rows[index]))

    def path(self, index: int) -> str:
        """Return the path under which a clip can be opened."""
        return self.manifest.path(int(self.rows[index]))

    def example(self, index: int, rng: np.random.Generator | None = None) -> AudioExample:
        """Read one clip.

        Args:
            index: which clip.
            rng: crops a clip longer than `max_sample_size` at random; None leaves it whole.

        Raises:
            DataError: the file cannot be read, or is shorter than `min_sample_size` once decoded.
        """
        path, offset, frames = self._stretch(index)
        samples = read_audio(
            path, self.sample_rate, resample=self.resample, channel=self.channel, start=offset or 0, frames=frames
        )
        shortest = max(self.min_sample_size, 1) if self.replace_unreadable else self.min_sample_size
        if len(samples) < shortest:
            raise DataError(f"{self.path(index)}: holds {len(samples)} samples, need at least {shortest}")
        if self.normalize:
            samples = normalize(samples, self.normalize_epsilon)
        if rng is not None and self.max_sample_size is not None and len(samples) > self.max_sample_size:
            start = int(rng.integers(len(samples) - self.max_sample_size + 1))
            samples = samples[start : start + self.max_sample_size]
        return AudioExample(index, torch.from_numpy(samples), self._targets(index))

    def in_place_of(self, index: int, error: DataError) -> AudioExample | None:
        """Return what stands in a batch for a clip that cannot be read; None: the next one that can be.

        Raises:
            DataError: nothing does.
        """
        if not self.replace_unreadable:
            raise error
        return None

    def batch(self, indices: Sequence[int] | IntArray, seed: int) -> AudioBatch:
        """Read a batch; it depends on `indices` and `seed` alone.

        Raises:
            DataError: a clip cannot be read and is not to be replaced, or too many cannot.
        """
        batch, report = self.load(indices, seed)
        self.record(report)
        return batch

    def load(self, indices: Sequence[int] | IntArray, seed: int) -> tuple[AudioBatch, ReadReport]:
        """Read a batch, and report what could not be read instead of logging it."""
        chosen = np.asarray(indices, dtype=np.int64)
        report = ReadReport()
        batch = self._as_planned(chosen, seed, report) or self._as_found(chosen, seed, report)
        if self.augmentation is not None and self.augmentation.changes_samples:
            batch = replace(batch, source=self.augmentation.apply(batch.source, batch.lengths, seed))
        return batch, report

    def _as_planned(self, indices: IntArray, seed: int, report: ReadReport) -> AudioBatch | None:
        """Read clips straight into their batch; None where a file is not what its manifest says.

        It is the batch that `_as_found` makes, save that damage outside of its windows goes unseen.
        """
        if self.channel or type(self).example is not AudioDataset.example:
            return None
        sizes = self.sizes[indices].tolist()
        speeds, lengths = self._speeds(indices, sizes, seed)
        width, starts = self._windows(indices, lengths, seed)
        source = _rows(len(sizes), width)
        places = zip(indices.tolist(), sizes, starts, speeds, strict=True)
        for row, (index, size, start, speed) in zip(source.numpy(), places, strict=True):
            if not self._read_at(index, size, start, row, speed):
                return None
        report.num_read = len(sizes)
        targets = [self._targets(index) for index in indices.tolist()]
        batch = _join(source, [min(length, width) for length in lengths], indices.tolist(), targets, seed, self._pad_id)
        return replace(batch, starts=starts)

    def _as_found(self, indices: IntArray, seed: int, report: ReadReport) -> AudioBatch:
        """Read clips one by one, whatever their files hold, and join them."""
        budget = int(self.lengths[indices].max())
        examples = [self._readable(index, budget, report) for index in indices.tolist()]
        sizes = [len(example.source) for example in examples]
        speeds, lengths = self._speeds(np.array([example.index for example in examples]), sizes, seed)
        width, starts = self._windows(indices, lengths, seed)
        places = zip(examples, lengths, starts, speeds, strict=True)
        windows = [self._window_at(example, length, start, width, speed) for example, length, start, speed in places]
        return replace(collate(windows, [0] * len(windows), width, seed, self._pad_id), starts=starts)

    def _speeds(self, indices: IntArray, sizes: Sequence[int], seed: int) -> tuple[list[float], list[int]]:
        """Return how fast each clip of a batch is played, and its samples then."""
        if self.speeds is None:
            return [1.0] * len(sizes), list(sizes)
        speeds = self.speeds.draw(indices, sizes, seed)
        return speeds, [length_at(size, speed) for size, speed in zip(sizes, speeds, strict=True)]

    def _windows(self, indices: IntArray, lengths: Sequence[int], seed: int) -> tuple[int, list[int]]:
        """Return how wide a batch is, and the first sample of each clip's window."""
        if self.pad:
            width = min(max(lengths), self.max_sample_size or max(lengths))
        else:
            # Never wider than planned, whatever the files hold, so the batch stays inside --max-tokens.
            width = min(int(self.lengths[indices].max()), *lengths)
        rng = numpy_generator(seed, "crop")
        return width, crop_starts(lengths, width, lambda high: int(rng.integers(high)))

    def _stretch(self, index: int) -> tuple[Source, int | None, int | None]:
        """Return where a clip is, its bytes if it lies in a shard.

        The clip that was asked for last is kept: one that is not ordinary is read twice, and crosses the line once.

        Raises:
            DataError: its bytes are damaged.
        """
        source, offset, frames = self.manifest.stretch(int(self.rows[index]))
        if isinstance(source, Member):
            if self._loaded[0] != index:
                self._loaded = index, source.load()
            source = self._loaded[1]
        return source, offset, frames

    def _read_at(self, index: int, size: int, start: int, row: Samples, speed: float) -> bool:
        """Read a window of a clip at a speed into its row; return whether it could be done."""
        if speed == 1:
            return self._read_row(index, size, start, row)
        length = min(length_at(size, speed) - start, len(row))
        first, stop = stretch_behind(start, length, size, speed)
        window = np.empty(stop - first, dtype=np.float32)
        if not self._read_row(index, size, first, window):
            return False
        row[:length] = played(window, speed, length)
        row[length:] = 0
        return True

    def _read_row(self, index: int, size: int, start: int, row: Samples) -> bool:
        try:
            path, offset, frames = self._stretch(index)
        except DataError:
            return False
        if frames is not None and frames != size:
            return False
        if not self.normalize:
            return read_window(path, self.sample_rate, size, start, row, offset)
        if size > LONG_CLIP:
            return False
        if len(self._clip) < size:
            self._clip = np.empty(size, dtype=np.float32)
        clip = self._clip[:size]
        if not read_window(path, self.sample_rate, size, 0, clip, offset):
            return False
        scale = centre(clip, clip, self.normalize_epsilon)
        window = clip[start : start + len(row)]
        np.multiply(window, scale, out=row[: len(window)])
        row[len(window) :] = 0
        return True

    @property
    def _pad_id(self) -> int:
        return 1 if self.labels is None else self.labels.pad

    def _targets(self, index: int) -> Tensor | None:
        return None if self.labels is None else torch.from_numpy(self.labels[index].astype(np.int64))

    def record(self, report: ReadReport) -> None:
        """Log each unreadable file once, and stop when there are too many.

        Raises:
            DataError: more than 1 % of the data set, and at least five clips, are unreadable; or, long before, more
                than a tenth of the clips read so far.
        """
        self.num_read = min(self.num_read + report.num_read, len(self))
        if report.lengths and not self._length_warned:
            self._length_warned = True
            index, decoded = next(iter(report.lengths.items()))
            logger.warning(
                "%s: holds %d samples, its manifest says %d; the audio is used as it is (further ones are not named)",
                self.path(index), decoded, self.sizes[index],
            )  # fmt: skip
        for index, reason in report.bad.items():
            if index not in self.bad:
                self.bad[index] = reason
                logger.warning("unreadable, replaced by another clip (%d so far): %s", len(self.bad), reason)
        so_far = max(MAX_BAD_SO_FAR, self.max_bad)
        limit = min(self.max_bad * len(self), MANY_BAD_CLIPS + so_far * self.num_read)
        if report.bad and len(self.bad) >= (MIN_BAD_CLIPS if self.max_bad else 1) and len(self.bad) > limit:
            raise DataError(
                f"{len(self.bad)} of {self.num_read} clips read are unreadable, more than {100 * self.max_bad:.3g}% "
                f"(--max-bad); the last one: {list(self.bad.values())[-1]}; all: "
                f"{listed([self.name(index) for index in self.bad], 20)}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"num_read": self.num_read, "bad": dict(self.bad)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.num_read, self.bad = state["num_read"], dict(state["bad"])

    def waste(self, batches: Sequence[IntArray]) -> PaddingStats:
        """Return what an epoch of `batches` wastes, by the lengths of the manifest."""
        return padding_stats(batches, self.sizes, pad=self.pad, max_size=self.max_sample_size)

    def _readable(self, index: int, budget: int, report: ReadReport) -> AudioExample:
        """Return clip `index`, or in its place the next one that can be read and fits into the batch."""
        for tries, candidate in enumerate(self._candidates(index, budget)):
            if tries == MAX_TRIES:
                raise DataError(f"{tries} clips in a row are unreadable; the last one: {list(report.bad.values())[-1]}")
            report.num_read += 1
            try:
                example = self._fitting(candidate, budget)
            except DataError as e:
                instead = self.in_place_of(candidate, e)
                if instead is not None:
                    return instead
                report.bad[candidate] = str(e)
                continue
            planned, found = int(self.sizes[candidate]), len(example.source)
            if abs(found - planned) > LENGTH_TOLERANCE * planned:
                report.lengths[candidate] = found
            # A clip of hours is let go, and read again once its window is known: a batch of them would fill the memory.
            is_long = found > LONG_CLIP and not self.pad
            return replace(example, source=example.source.to("meta")) if is_long else example
        raise DataError(f"no clip can be read; the last one: {list(report.bad.values())[-1]}")

    def _fitting(self, index: int, budget: int) -> AudioExample:
        """Read a clip for a batch with room for `budget` samples per row.

        Raises:
            DataError: it cannot be read, or is so much longer than its manifest says that padding the batch to it
                could fill the memory.
        """
        example = self.example(index)
        found, room = len(example.source), max(budget, int(self.lengths[index]))
        is_whole = self.pad and (self.labels is not None or self.max_sample_size is None)
        if is_whole and found > room * (1 + LENGTH_TOLERANCE) + self.sample_rate:
            raise DataError(
                f"{self.path(index)}: holds {found} samples, its manifest says {self.sizes[index]}, and its batch has "
                f"room for {room}; write the manifest anew"
            )
        return example

    def _window_at(self, example: AudioExample, length: int, start: int, width: int, speed: float) -> AudioExample:
        """Return a part of a clip that has `length` samples at a speed."""
        if speed == 1:
            return self._window(example, start, width)
        width = min(length - start, width)
        first, stop = stretch_behind(start, width, len(example.source), speed)
        window = self._window(example, first, stop - first)
        return replace(window, source=torch.from_numpy(played(window.source.numpy(), speed, width)))

    def _window(self, example: AudioExample, start: int, width: int) -> AudioExample:
        """Return a part of a clip, read again where it was let go."""
        if not example.source.is_meta:
            return replace(example, source=example.source[start : start + width])
        return replace(example, source=self.example(example.index).source[start : start + width].clone())

    def _candidates(self, index: int, budget: int) -> Iterator[int]:
        yield index
        # All others in order from the next one on: first those that keep the batch inside its budget.
        others = (index + 1 + np.arange(len(self) - 1)) % len(self)
        fits = self.lengths[others] <= budget
        yield from map(int, others[fits])
        yield from map(int, others[~fits])


def crop_starts(lengths: Sequence[int], width: int, draw: Callable[[int], int]) -> list[int]:
    """Return the first sample of a window of `width` samples in each clip; 0 where the clip is not longer.

    Args:
        lengths: samples per clip.
        width: samples wanted.
        draw: returns a random number in [0, its argument); called once per clip that is longer, in order.
    """
    return [draw(length - width + 1) if length > width else 0 for length in lengths]


def collate(examples: Sequence[AudioExample], starts: Sequence[int], width: int, seed: int, pad: int = 1) -> AudioBatch:
    """Join clips into a batch: windows of `width` samples from `starts`, zeros where a clip ends sooner.

    Args:
        examples: the clips; all of them with targets, or none.
        starts: first sample of each clip's window.
        width: samples per row.
        seed: seed that the batch carries.
        pad: id that fills rows of targets.
    """
    source = _rows(len(examples), width)
    for row, example, start in zip(source.numpy(), examples, starts, strict=True):
        window = example.source[start : start + width].numpy()
        row[: len(window)] = window
        row[len(window) :] = 0
    lengths = [min(len(example.source), width) for example in examples]
    indices = [example.index for example in examples]
    return _join(source, lengths, indices, [example.targets for example in examples], seed, pad)


def _join(
    source: Tensor, lengths: list[int], indices: list[int], targets: list[Tensor | None], seed: int, pad: int
) -> AudioBatch:
    batch = AudioBatch(source, torch.tensor(lengths), torch.tensor(indices), seed)
    given = [row for row in targets if row is not None]
    if not given:
        return batch
    padded, target_lengths = _pad_targets(given, pad)
    return replace(batch, targets=padded, target_lengths=target_lengths)


def _rows(count: int, width: int) -> Tensor:
    """Return a tensor (count, width) of anything; in a worker, in memory that the main process will read.

    A batch made elsewhere would be copied there, and a worker's memory would grow by the batches that wait for it.
    """
    if get_worker_info() is None:
        return torch.empty(count, width)
    storage: Any = torch.UntypedStorage  # its method has no types
    if not worker_limits.through_pipes:
        try:
            shared = storage._new_shared(count * width * torch.float32.itemsize)
            return torch.empty(0).set_(shared).view(count, width)
        except RuntimeError:  # /dev/shm is full, or there are too few file descriptors: from now on without
            worker_limits.through_pipes = True
    return torch.empty(count, width)


def _pad_targets(targets: Sequence[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in targets], dtype=torch.int64)
    padded = torch.full((len(targets), int(lengths.max())), pad, dtype=torch.int64)
    for row, ids in enumerate(targets):
        padded[row, : len(ids)] = ids
    return padded, lengths
