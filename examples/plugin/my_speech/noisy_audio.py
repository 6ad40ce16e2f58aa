"""A task from outside: audio_pretraining, with noise added to the training clips while they are read.

The noise is made in the loader's worker processes, and follows from the seed of the batch: a run repeats, and goes on
after a restart, on any number of workers and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from w2v.config import arg
from w2v.config.sections import DatasetConfig
from w2v.data.dataset import AudioDataset, ReadReport
from w2v.data.iterator import EpochIterator
from w2v.rng import numpy_generator
from w2v.tasks import register_task
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask
from w2v.types import AudioBatch


@dataclass(frozen=True)
class NoisyAudioConfig(AudioPretrainingConfig):
    """The flags of audio_pretraining, and one more."""

    snr: float = arg(20.0, help="loudness of a training clip over its noise, in dB")


class NoisyDataset(AudioDataset):
    """Clips with white noise, once `snr` is set.

    Attributes:
        snr: in dB; None: the clips as they are.
    """

    snr: float | None = None

    def load(self, indices: Sequence[int] | Any, seed: int) -> tuple[AudioBatch, ReadReport]:
        batch, report = super().load(indices, seed)
        if self.snr is not None:
            batch = replace(batch, source=add_noise(batch, self.snr))
        return batch, report


def add_noise(batch: AudioBatch, snr: float) -> torch.Tensor:
    """Return the samples of a batch, (B, S), with noise `snr` dB below each clip; padding stays zero."""
    clean = batch.source
    inside = torch.arange(clean.shape[1]) < batch.lengths[:, None]
    power = clean.square().sum(dim=1, keepdim=True) / batch.lengths[:, None].clamp(min=1)
    noise = numpy_generator(batch.seed, "noise").standard_normal(clean.shape, dtype=np.float32)
    return clean + torch.from_numpy(noise) * (power * 10 ** (-snr / 10)).sqrt() * inside


@register_task("noisy_audio", NoisyAudioConfig)
class NoisyAudioTask(AudioPretrainingTask):
    """Noise in training, none in validation."""

    config: NoisyAudioConfig
    dataset_class = NoisyDataset

    def train_batches(self, split: str, dataset: DatasetConfig) -> EpochIterator:
        clips = self.load_dataset(split)
        assert isinstance(clips, NoisyDataset)
        clips.snr = self.config.snr
        return super().train_batches(split, dataset)
