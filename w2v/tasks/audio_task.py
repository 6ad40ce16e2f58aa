"""What tasks over clips of audio have in common: their options, data sets and batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from w2v.config import arg, byte_size, check_range
from w2v.config.sections import DatasetConfig
from w2v.criterions.base import Criterion
from w2v.data.audio import audio_format, audio_info
from w2v.data.audio_time import audio_time
from w2v.data.augment import Augmentation, decibel_range
from w2v.data.batch_sampler import plan_batches
from w2v.data.dataset import MAX_BAD_SHARE, AudioDataset
from w2v.data.iterator import EpochIterator
from w2v.data.manifest import Manifest, NoClipsError, read_manifest
from w2v.data.shard_order import find_blocks, plan_by_shards
from w2v.data.speed import speed_range
from w2v.errors import ConfigError, DataError, listed
from w2v.functional.conv_spec import ConvLayer, samples_for_frames
from w2v.models.base import W2vModel
from w2v.registry import Entry
from w2v.shards.store import PREFETCH_BYTES
from w2v.tasks.base import Task
from w2v.tasks.batches import data_digest, train_epochs, valid_epoch
from w2v.types import AudioBatch, IntArray

logger = logging.getLogger(__name__)

FORMATS_SEEN = 16  # headers that a start looks at; a folder of another rate shows in each


@dataclass(frozen=True)
class AudioPretrainingConfig:
    """Where the audio is, and how it is read."""

    data: str = arg(help="folder with manifests, and with labels and dictionary for fine-tuning", positional=True)
    sample_rate: int = arg(16000, help="samples per second; files of another rate are refused, or see --resample")
    resample: bool = arg(False, help="convert files of another rate, and mix channels down")
    channel: int | None = arg(None, help="of files with several channels, take this one alone, from 1")
    normalize: bool = arg(False, help="give every clip zero mean and unit variance; must be as in pretraining")
    normalize_epsilon: float = arg(
        1e-5, help="added to the variance by --normalize; 1e-7 for models that were trained with Hugging Face's classes"
    )
    max_sample_size: int | None = arg(None, help="crop clips to this many samples; with labels: leave longer ones out")
    min_sample_size: int | None = arg(None, help="leave out clips shorter than this many samples")
    enable_padding: bool = arg(False, help="pad clips to the longest of the batch instead of cropping to the shortest")
    augment_speed: tuple[float, float] = arg(
        (1.0, 1.0),
        help="training: play each clip at a speed drawn from 'low,high', such as 0.9,1.1; pitch changes with it, as "
        "if by another speaker",
        parse=speed_range,
    )
    augment_snr_db: tuple[float, float] | None = arg(
        None,
        help="training: add Gaussian noise at a signal-to-noise ratio in dB, drawn from '(low, high)' per clip; "
        "a single number: always that",
        parse=decibel_range,
    )
    augment_shift_ms: float = arg(
        0.0, help="training: move each clip by up to so many milliseconds to either side; zeros come in, an end is lost"
    )
    augment_filter_db: float = arg(
        0.0,
        help="training: raise or lower each octave of a clip by up to so many dB, as another microphone would; 6 to 12 "
        "are usual",
    )
    augment_gain_db: float = arg(0.0, help="training: make each clip louder or softer by up to so many dB")
    labels: str | None = arg(None, help="extension of label files, such as ltr: fine-tune on them")
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")
    shuffle_shards: int | None = arg(
        None,
        help="clips in shards: read this many shards at a time, each in its order, instead of clips from all of them; "
        "best a multiple of ranks x workers",
    )
    prefetch_bytes: int = arg(
        PREFETCH_BYTES, help="shards on a server: most bytes that a process holds ahead, such as 256M", parse=byte_size
    )
    max_bad: float = arg(
        MAX_BAD_SHARE,
        help="share of clips that may be unreadable before training stops, from 0 to 1; another clip stands for each",
    )

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "sample_rate", "max_sample_size", "min_sample_size", "channel")
        check_range(self, 1, math.inf, "shuffle_shards", "prefetch_bytes")
        check_range(self, 0, 1, "max_bad")
        check_range(self, 0, math.inf, "augment_shift_ms", "augment_filter_db", "augment_gain_db", "normalize_epsilon")

    @property
    def augmentation(self) -> Augmentation:
        """What the `augment` flags ask for."""
        shift = round(self.augment_shift_ms * self.sample_rate / 1000)
        return Augmentation(
            self.augment_speed, shift, self.augment_filter_db, self.augment_snr_db, self.augment_gain_db
        )


class AudioTask(Task):
    """Batches of audio; a task derived from it says what belongs to the clips (`_dataset`), and what is learnt.

    Attributes:
        config: the options.
    """

    config: AudioPretrainingConfig

    def __init__(self, config: AudioPretrainingConfig, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._datasets: dict[str, AudioDataset] = {}
        self._shortest_clip = W2vModel.shortest_clip
        self._conv_layers: tuple[ConvLayer, ...] = ()

    def load_dataset(self, split: str) -> AudioDataset:
        if split not in self._datasets:
            self._datasets[split] = self._open(split)
        return self._datasets[split]

    def prepare_validation(self, split: str, dataset: DatasetConfig, criterion: Criterion) -> None:
        try:
            super().prepare_validation(split, dataset, criterion)
        except NoClipsError as e:
            raise DataError(f"{e}; move lines of the training set there, or train with --disable-validation") from e

    def _open(self, split: str) -> AudioDataset:
        config = self.config
        if config.max_sample_size is not None and config.max_sample_size < self._shortest_clip:
            raise ConfigError(
                f"--max-sample-size must be at least {self._shortest_clip}, what the model needs to learn from a clip, "
                f"got {config.max_sample_size}"
            )
        dataset = self._dataset(split)
        logger.info("%s: %d clips, %s", split, len(dataset), audio_time(dataset.sizes.sum() / config.sample_rate))
        if dataset.num_skipped:
            logger.info(
                "%s: left out %d clips as too short and %d as too long", split, dataset.num_too_short,
                dataset.num_too_long,
            )  # fmt: skip
        return dataset

    def _manifest(self, split: str) -> Manifest:
        """Read the manifest of a split, and look at the form of its clips."""
        path = Path(self.config.data) / f"{split}.tsv"
        manifest = read_manifest(path, allow_outside_root=self.config.allow_outside_root)
        self._check_format(manifest, split)
        if manifest.store is not None:
            manifest.store.prefetch_bytes = self.config.prefetch_bytes
        return manifest

    def _check_format(self, manifest: Manifest, split: str) -> None:
        """Look at the headers of some clips: those of another form are left out, one by one, without `--resample`.

        Raises:
            DataError: none of them can be read.
            ConfigError: none of them has the form that is needed.
        """
        config = self.config
        rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), FORMATS_SEEN)).astype(np.int64)).tolist()
        # A server is asked for nothing before the workers have been started.
        sources = [(row, manifest.stretch(row)[0]) for row in rows if not manifest.is_remote(row)]
        seen = [(row, audio_format(source)) for row, source in sources]
        known = [(row, *form) for row, form in seen if form is not None]
        if seen and not known:
            manifest.check_root()
            raise DataError(_unreadable(manifest, split, rows))
        if config.resample:
            return
        other = [
            f"{manifest.name(row)} ({rate} Hz, {channels} channel{'s' * (channels > 1)})"
            for row, rate, channels in known
            if rate != config.sample_rate or (channels > 1 and config.channel is None)
        ]
        needed = f"{config.sample_rate} Hz mono"
        text = f"{len(other)} of the {len(known)} clips of {split} that were looked at are not {needed}"
        remedy = "--resample converts them"
        if config.channel is None and any(channels > 1 for _, _, channels in known):
            remedy += ", --channel takes one channel"
        if other and len(other) == len(known):
            raise ConfigError(f"{text}: {listed(other)}; {remedy}")
        if other:
            logger.warning("%s, and are left out: %s; %s", text, listed(other), remedy)

    def _dataset(self, split: str) -> AudioDataset:
        """Join the clips of a split with what belongs to them."""
        raise NotImplementedError

    def _reading(self) -> dict[str, Any]:
        """Return how every data set of the task reads its clips."""
        config = self.config
        return {
            "sample_rate": config.sample_rate,
            "max_sample_size": config.max_sample_size,
            "min_sample_size": max(config.min_sample_size or 0, self._shortest_clip),
            "normalize": config.normalize,
            "normalize_epsilon": config.normalize_epsilon,
            "resample": config.resample,
            "channel": config.channel,
            "max_bad": config.max_bad,
        }

    def train_batches(self, split: str, dataset: DatasetConfig) -> EpochIterator:
        clips = self.load_dataset(split)
        shortest = self._samples_needed(clips)
        clips = clips.augmented(self.config.augmentation, shortest=shortest, max_tokens=dataset.max_tokens)
        options: dict[str, Any] = {
            "seed": self.seed,
            "max_tokens": dataset.max_tokens,
            "batch_size": dataset.batch_size,
            "multiple": dataset.required_batch_size_multiple,
            "name_of": clips.name,
        }
        if self.config.shuffle_shards is None:
            plan = plan_batches(clips.sizes, clips.lengths, **options)
            return train_epochs(clips, plan, split, dataset, self.seed)
        blocks = find_blocks(clips.manifest, clips.rows)
        plan, order = plan_by_shards(blocks, self.config.shuffle_shards, clips.sizes, clips.lengths, **options)
        return train_epochs(clips, plan, split, dataset, self.seed, order)

    def _samples_needed(self, clips: AudioDataset) -> IntArray:
        """Return (N,) the fewest samples of each clip in which the model can learn from it, and write its labels."""
        needed = np.full(len(clips), clips.min_sample_size)
        if clips.labels is not None and self._conv_layers:
            needed = np.maximum(needed, samples_for_frames(clips.labels.frames_needed(), self._conv_layers))
        return needed

    def valid_batches(self, split: str, dataset: DatasetConfig) -> Iterator[AudioBatch]:
        clips = self.load_dataset(split)
        plan = plan_batches(
            clips.sizes,
            clips.lengths,
            seed=self.seed,
            max_tokens=dataset.max_tokens_valid or dataset.max_tokens,
            batch_size=dataset.batch_size_valid or dataset.batch_size,
            multiple=dataset.required_batch_size_multiple,
            name_of=clips.name,
            refuse_long=not dataset.skip_invalid_size_inputs_valid_test,
        )
        return valid_epoch(clips, plan, split, dataset, self.seed)

    def build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        """Build the model, and note how short a clip may be.

        Raises:
            W2vError: it cannot be built from these options, or from what they name.
        """
        model = self._build_model(entry, config)
        self._shortest_clip = model.shortest_clip
        self._conv_layers = getattr(model, "conv_layers", ())
        return model

    def _build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        """Build the model, handing over what only the task knows."""
        return entry.cls.build(config)

    def digest(self) -> dict[str, str]:
        return {
            f"manifest {split}": data_digest(clips.manifest.names, clips.manifest.sizes)
            for split, clips in self._datasets.items()
        }


def _unreadable(manifest: Manifest, split: str, rows: list[int]) -> str:
    """Return what is to be said where no clip that was looked at can be read, as where all have moved."""
    reason = ""
    try:
        audio_info(manifest.stretch(rows[0])[0])
    except DataError as e:
        reason = f": {e}"
    return f"none of the {len(rows)} clips of {split} that were looked at can be read, {manifest.line(rows[0])}{reason}"
