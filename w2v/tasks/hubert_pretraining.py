"""HuBERT pretraining: audio_pretraining with classes for stretches of each clip (`--labels km --label-rate 100`).

DATA holds `train.tsv`, `valid.tsv`; DATA or `--label-dir` holds `train.km`, `valid.km`, `dict.km.txt`, as `w2v-kmeans`
writes them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from w2v.config import arg, check_range, str_tuple
from w2v.criterions.base import Criterion
from w2v.data.dictionary import Dictionary
from w2v.data.frame_labels import FrameLabelDataset, read_header
from w2v.data.labels import read_labels
from w2v.errors import CheckpointError, ConfigError, DataError
from w2v.models.base import W2vModel
from w2v.registry import Entry
from w2v.tasks.audio_task import AudioPretrainingConfig, AudioTask
from w2v.tasks.base import register_task
from w2v.tasks.batches import data_digest, text_digest
from w2v.types import FrameLabelBatch, Loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubertPretrainingConfig(AudioPretrainingConfig):
    """Where audio and classes are, and how both are cropped."""

    labels: str | None = arg(None, help='extensions of label files, one per label set: km, or \'["km100","km500"]\'')
    label_rate: float = arg(-1.0, help="labels per second: 100 for MFCC, 50 for features of a model")
    label_dir: str | None = arg(None, help="folder of label files and dictionaries; none: that of the manifests")
    max_keep_size: int | None = arg(None, help="leave out clips longer than this many samples")
    random_crop: bool = arg(False, help="crop at random places; otherwise clips lose their end")
    pad_audio: bool = arg(False, help="pad clips to the longest of the batch instead of cropping to the shortest")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, math.inf, "max_keep_size")
        if self.augment_shift_ms or self.augment_speed != (1, 1):
            raise ConfigError(
                "--augment-shift-ms and --augment-speed do not go with --task hubert_pretraining: its labels belong to "
                "moments of the audio as it is"
            )


@register_task("hubert_pretraining", HubertPretrainingConfig)
class HubertPretrainingTask(AudioTask):
    """Batches of audio with classes, and the numbers of classes for the model."""

    config: HubertPretrainingConfig

    def __init__(self, config: HubertPretrainingConfig, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._headers: dict[str, dict[str, Any]] = {}
        self._dictionaries: list[Dictionary] = []

    @property
    def label_names(self) -> tuple[str, ...]:
        """The label sets.

        Raises:
            ConfigError: none is named, or their rate is not.
        """
        if not self.config.labels or self.config.label_rate <= 0:
            raise ConfigError(
                "--task hubert_pretraining needs --labels and --label-rate, such as --labels km --label-rate 50"
            )
        try:
            return str_tuple(self.config.labels)
        except ValueError as e:
            raise ConfigError(f"--labels: {e}") from e

    @property
    def dictionaries(self) -> list[Dictionary]:
        """The classes of each label set, read from `dict.LABELS.txt` at the first use."""
        if not self._dictionaries:
            folder = self._label_folder()
            self._dictionaries = [Dictionary.from_file(folder / f"dict.{name}.txt") for name in self.label_names]
        return self._dictionaries

    def _label_folder(self) -> Path:
        return Path(self.config.label_dir or self.config.data)

    def _dataset(self, split: str) -> FrameLabelDataset:
        config, manifest = self.config, self._manifest(split)
        sets = []
        for name, dictionary in zip(self.label_names, self.dictionaries, strict=True):
            path = self._label_folder() / f"{split}.{name}"
            labels = read_labels(path, len(manifest), dictionary)
            if labels.num_unknown:
                raise DataError(
                    f"{labels.unknown_warning()}; all classes must be in dict.{name}.txt: take labels and dictionary "
                    "of one run of w2v-kmeans"
                )
            self._check_header(name, path)
            sets.append(labels)
        return FrameLabelDataset(
            manifest, sets, config.label_rate, random_crop=config.random_crop, max_keep_size=config.max_keep_size,
            pad=config.pad_audio or config.enable_padding, **self._reading(),
        )  # fmt: skip

    def _check_header(self, name: str, path: Path) -> None:
        """Check that labels are of the rate asked for, and of one k-means model with those of the other splits."""
        header = read_header(path.with_name(path.name + ".json"))
        rate = header.get("label_rate", self.config.label_rate)
        if rate != self.config.label_rate:
            raise DataError(f"{path}: holds {rate:g} labels per second, got --label-rate {self.config.label_rate:g}")
        first = self._headers.setdefault(name, {**header, "path": str(path)} if header else {})
        if header and first and header.get("kmeans") != first.get("kmeans"):
            # Each numbers its classes by chance: validation would look like overfitting.
            raise DataError(
                f"{path} and {first['path']} are of two k-means models; label both with one (w2v-kmeans --apply)"
            )

    def _build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        rates = {"label_rate": self.config.label_rate, "sample_rate": self.config.sample_rate}
        if getattr(config, "num_classes", ()):  # a model that was trained: its labels need not be here
            return entry.cls.build(config, **rates)
        return entry.cls.build(config, num_classes=[len(symbols) for symbols in self.dictionaries], **rates)

    def train_step(self, model: torch.nn.Module, criterion: Criterion, batch: FrameLabelBatch) -> Loss:
        lengths = batch.lengths if batch.is_padded else None
        output = model(
            batch.source, lengths, batch.seed, frame_labels=batch.frame_labels, label_lengths=batch.label_lengths
        )
        loss: Loss = criterion(output, batch)
        return loss

    def digest(self) -> dict[str, str]:
        found = super().digest()
        for split, clips in self._datasets.items():
            for name, labels in zip(self.label_names, getattr(clips, "label_sets", ())):
                found[f"{name} labels of {split}"] = data_digest(labels.ids, labels.offsets)
        return found | {f"dictionary {number}": text_digest(d.symbols) for number, d in enumerate(self._dictionaries)}

    def state_dict(self) -> dict[str, Any]:
        return {"dictionaries": [list(dictionary.symbols) for dictionary in self._dictionaries]}

    def check_state(self, state: Mapping[str, Any]) -> None:
        theirs = state.get("dictionaries")
        if theirs and theirs != self.state_dict()["dictionaries"]:
            raise CheckpointError(
                "the checkpoint was trained on other classes (its dictionaries differ): each iteration of HuBERT "
                "starts anew, in another --save-dir"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._dictionaries = [Dictionary.from_symbols(symbols) for symbols in state.get("dictionaries", ())]
