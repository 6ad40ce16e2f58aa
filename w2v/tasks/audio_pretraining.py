"""Pretraining on raw audio, and fine-tuning where there are labels (`--labels ltr`).

DATA holds `train.tsv`, `valid.tsv`, ...; for fine-tuning also `train.ltr`, ... and `dict.ltr.txt`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from w2v.config import arg, build_config, check_range
from w2v.config.sections import DatasetConfig
from w2v.convert import read_model_file
from w2v.convert.model_file import CTC
from w2v.criterions.base import Criterion
from w2v.data.audio import audio_format
from w2v.data.augment import Augmentation, decibel_range
from w2v.data.batch_sampler import plan_batches
from w2v.data.dataset import AudioDataset
from w2v.data.dictionary import Dictionary
from w2v.data.iterator import EpochIterator
from w2v.data.labels import Labels, join_labels, read_labels
from w2v.data.manifest import Manifest, join_manifests, read_manifest
from w2v.data.post_process import fitting_post_process
from w2v.data.text import WORD_END
from w2v.decoders import Decoder, build_decoder, wer_args_config
from w2v.errors import ConfigError, listed
from w2v.functional.conv_spec import ConvLayer, frame_lengths
from w2v.models.base import MODELS, W2vModel
from w2v.registry import Entry
from w2v.scoring.ctc_errors import count_errors
from w2v.tasks.base import Task, register_task
from w2v.tasks.batches import data_digest, text_digest, train_epochs, valid_epoch
from w2v.tasks.sources import Sources, short_names
from w2v.types import AudioBatch, CtcOutput, IntArray, Loss

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
    augment_snr_db: tuple[float, float] | None = arg(
        None,
        help="pretraining: add Gaussian noise at a signal-to-noise ratio in dB, drawn from '(low, high)' per clip; "
        "a single number: always that",
        parse=decibel_range,
    )
    augment_shift_ms: float = arg(
        0.0, help="pretraining: move each clip by up to so many milliseconds to either side, zeros come in"
    )
    augment_gain_db: float = arg(0.0, help="pretraining: make each clip louder or softer by up to so many dB")
    labels: str | None = arg(None, help="extension of label files, such as ltr: fine-tune on them")
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "sample_rate", "max_sample_size", "min_sample_size", "channel")
        check_range(self, 0, math.inf, "augment_shift_ms", "augment_gain_db", "normalize_epsilon")
        if self.labels is not None and self.augmentation.is_on:
            raise ConfigError("--augment-snr-db, --augment-shift-ms and --augment-gain-db do not go with --labels")

    @property
    def augmentation(self) -> Augmentation:
        """What the `augment` flags ask for."""
        shift = round(self.augment_shift_ms * self.sample_rate / 1000)
        return Augmentation(shift, self.augment_snr_db, self.augment_gain_db)


@dataclass(frozen=True)
class _Part:
    """A manifest and its labels, one entry per line."""

    manifest: Manifest
    labels: Labels | None


@register_task("audio_pretraining", AudioPretrainingConfig)
class AudioPretrainingTask(Task):
    """Batches of audio; with `--labels` also a dictionary, error rates and the pretrained encoder.

    Attributes:
        config: the options.
        dataset_class: reads the clips; a derived task may name another one.
    """

    config: AudioPretrainingConfig
    dataset_class: ClassVar[type[AudioDataset]] = AudioDataset
    joins_subsets = True

    def __init__(self, config: AudioPretrainingConfig, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._datasets: dict[str, AudioDataset] = {}
        self._ends: dict[str, IntArray] = {}  # of a split: lines of the joined manifest up to the end of each part
        self._decoders: dict[Any, Decoder] = {}
        self._dictionary: Dictionary | None = None
        self._shortest_clip = W2vModel.shortest_clip
        self._conv_layers: tuple[ConvLayer, ...] = ()

    @property
    def dictionary(self) -> Dictionary | None:
        """The label symbols, read from `dict.LABELS.txt` at the first use; None without `--labels`."""
        if self._dictionary is None and self.config.labels is not None:
            self._dictionary = Dictionary.from_file(Path(self.config.data) / f"dict.{self.config.labels}.txt")
        return self._dictionary

    # ------------------------------------------------------------------------------------------ data

    def load_dataset(self, split: str) -> AudioDataset:
        if split not in self._datasets:
            self._datasets[split] = self._open(split)
        return self._datasets[split]

    def _open(self, split: str) -> AudioDataset:
        config = self.config
        if config.max_sample_size is not None and config.max_sample_size < self._shortest_clip:
            raise ConfigError(
                f"--max-sample-size must be at least {self._shortest_clip}, what the model needs to learn from a clip, "
                f"got {config.max_sample_size}"
            )
        parts = [self._read(name) for name in split.split(",")]
        self._ends[split] = np.cumsum([len(part.manifest) for part in parts])
        manifest = join_manifests([part.manifest for part in parts])
        given = [part.labels for part in parts if part.labels is not None]
        labels = join_labels(given) if given else None
        impossible = [self._impossible(part.manifest, part.labels) for part in parts]
        dataset = self.dataset_class(
            manifest,
            labels,
            sample_rate=config.sample_rate,
            max_sample_size=config.max_sample_size,
            min_sample_size=max(config.min_sample_size or 0, self._shortest_clip),
            pad=config.enable_padding or labels is not None,
            normalize=config.normalize,
            normalize_epsilon=config.normalize_epsilon,
            resample=config.resample,
            channel=config.channel,
            impossible=np.concatenate(found) if (found := [i for i in impossible if i is not None]) else None,
        )
        logger.info("%s: %d clips, %.2f hours", split, len(dataset), dataset.sizes.sum() / config.sample_rate / 3600)
        if dataset.num_skipped:
            logger.info(
                "%s: left out %d clips as too short and %d as too long", split, dataset.num_too_short,
                dataset.num_too_long,
            )  # fmt: skip
        return dataset

    def _read(self, name: str) -> _Part:
        """Read one manifest and its labels."""
        config, folder = self.config, Path(self.config.data)
        manifest = read_manifest(folder / f"{name}.tsv", allow_outside_root=config.allow_outside_root)
        self._check_format(manifest, name)
        if config.labels is None:
            return _Part(manifest, None)
        if self.dictionary is None:
            raise ConfigError("--labels: there is no dictionary")
        labels = read_labels(folder / f"{name}.{config.labels}", len(manifest), self.dictionary)
        labels.check_known()
        if labels.num_unknown:
            logger.warning(labels.unknown_warning())
        return _Part(manifest, labels)

    def _check_format(self, manifest: Manifest, split: str) -> None:
        """Look at the headers of some clips: those of another form are left out, one by one, without `--resample`.

        Raises:
            ConfigError: none of them has the form that is needed.
        """
        config = self.config
        if config.resample:
            return
        rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), FORMATS_SEEN)).astype(np.int64)).tolist()
        seen = [(row, audio_format(manifest.stretch(row)[0])) for row in rows]
        known = [(row, *form) for row, form in seen if form is not None]
        other = [
            f"{manifest.name(row)} ({rate} Hz, {channels} channel{'s' * (channels > 1)})"
            for row, rate, channels in known
            if rate != config.sample_rate or (channels > 1 and config.channel is None)
        ]
        needed = f"{config.sample_rate} Hz mono"
        text = f"{len(other)} of the {len(known)} clips of {split} that were looked at are not {needed}"
        remedy = "--resample converts them"
        if other and len(other) == len(known):
            raise ConfigError(f"{text}: {listed(other)}; {remedy}")
        if other:
            logger.warning("%s, and are left out: %s; %s", text, listed(other), remedy)

    def _impossible(self, manifest: Manifest, labels: Labels | None) -> npt.NDArray[np.bool_] | None:
        """Return which clips have more symbols than frames, so that their loss would be infinite; name them."""
        if labels is None or not self._conv_layers:
            return None
        frames = frame_lengths(torch.from_numpy(manifest.sizes), self._conv_layers).numpy()
        needed = labels.frames_needed()
        found: npt.NDArray[np.bool_] = (needed > frames) & (manifest.sizes >= self._shortest_clip)
        rows = np.flatnonzero(found)
        if len(rows):
            shown = [
                f"{manifest.line(row)} {manifest.name(row)} ({frames[row]} frames for {needed[row]})"
                for row in rows.tolist()
            ]
            logger.warning(
                "left out %d clips with more symbols than frames, whose loss is infinite: %s; is it their text?",
                len(rows), listed(shown),
            )  # fmt: skip
        return found

    def train_batches(self, split: str, dataset: DatasetConfig) -> EpochIterator:
        clips = self.load_dataset(split).augmented(self.config.augmentation)
        names = split.split(",")
        if len(names) > 1:
            weights = tuple(dataset.train_sources[name] for name in names)
            self.sources = Sources(short_names(names), weights, self._ends[split], clips.rows)
            shares = zip(names, weights, np.diff(self._ends[split], prepend=0), strict=True)
            logger.info("joined: %s", "; ".join(f"{name}: {count} clips, weight {w:g}" for name, w, count in shares))
        plan = plan_batches(
            clips.sizes,
            clips.lengths,
            seed=self.seed,
            max_tokens=dataset.max_tokens,
            batch_size=dataset.batch_size,
            multiple=dataset.required_batch_size_multiple,
            name_of=clips.name,
        )
        return train_epochs(clips, plan, split, dataset, self.seed)

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

    def prepare_validation(self, split: str, dataset: DatasetConfig, criterion: Criterion) -> None:
        super().prepare_validation(split, dataset, criterion)
        self._decoder_of(criterion)
        symbol = getattr(criterion.config, "post_process", None)
        if self.dictionary is not None and symbol == "letter" and WORD_END not in self.dictionary:
            logger.warning(
                "the dictionary has no %r, which ends a word with --post-process letter: each text counts as one word, "
                "and wer is the share of texts with an error", WORD_END,
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------ model

    def build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        """Build the model; for fine-tuning with the pretrained encoder of `--w2v-path`.

        Raises:
            ConfigError: `--normalize` differs from pretraining.
            CheckpointError: the pretrained file cannot be read or does not fit.
        """
        model = self._build_model(entry, config)
        self._shortest_clip = model.shortest_clip
        self._conv_layers = getattr(model, "conv_layers", ())
        return model

    def _build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        if self.dictionary is None:
            return entry.cls.build(config)
        context: dict[str, Any] = {"num_classes": len(self.dictionary)}
        path = getattr(config, "w2v_path", None)
        if path is not None and config.w2v_args is None:
            context["pretrained_config"], state = self._read_pretrained(path)
            context["pretrained_state"] = None if config.no_pretrained_weights else state
        return entry.cls.build(config, **context)

    def _read_pretrained(self, path: str) -> tuple[Any, Mapping[str, torch.Tensor]]:
        """Read a pretrained model of any kind that `w2v.convert` knows."""
        file = read_model_file(path)
        for note in file.notes:
            logger.info("--w2v-path %s: %s", path, note)
        if file.normalize != self.config.normalize:
            raise ConfigError(
                f"--w2v-path {path} was pretrained {'with' if file.normalize else 'without'} --normalize; fine-tune it "
                f"{'with' if file.normalize else 'without'} --normalize, too"
            )
        if file.name == CTC:
            logger.info("--w2v-path %s is fine-tuned already: its encoder is taken, its output layer is not", path)
        entry = MODELS.get(file.name)
        values = {**entry.overrides, **file.config["model"]}
        return build_config(entry.config, values, f"--w2v-path {path}"), file.state

    # ------------------------------------------------------------------------------------------ steps

    def train_step(self, model: torch.nn.Module, criterion: Criterion, batch: AudioBatch) -> Loss:
        loss: Loss = criterion(_forward(model, batch), batch)
        return loss

    def valid_step(self, model: torch.nn.Module, criterion: Criterion, batch: AudioBatch) -> Loss:
        """Return the loss and, for CTC, the counts behind uer, wer and raw_wer."""
        output = _forward(model, batch)
        loss: Loss = criterion(output, batch)
        if not isinstance(output, CtcOutput) or batch.targets is None or batch.target_lengths is None:
            return loss
        assert self.dictionary is not None
        symbol, decoder = getattr(criterion.config, "post_process", "letter"), self._decoder_of(criterion)
        targets, lengths = batch.targets, batch.target_lengths
        errors = count_errors(output.logits, output.lengths, targets, lengths, self.dictionary, symbol, decoder)
        return Loss(loss.value, loss.sample_size, {**loss.sums, **errors})

    def _decoder_of(self, criterion: Criterion) -> Decoder | None:
        """Return the decoder that `--wer-args` asks for."""
        wer_args = getattr(criterion.config, "wer_args", None)
        if not wer_args or self.dictionary is None:
            return None
        if wer_args not in self._decoders:
            config = wer_args_config(wer_args, len(self.dictionary))
            symbol = fitting_post_process(criterion.config.post_process, self.dictionary.symbols)
            self._decoders[wer_args] = build_decoder(config, self.dictionary, symbol)
        return self._decoders[wer_args]

    def summarize_valid(self, criterion: Criterion, sums: Mapping[str, float]) -> dict[str, float]:
        """Add uer, wer and raw_wer, in percent, to what the criterion logs."""
        values = criterion.summarize(sums)
        if "c_total" in sums:
            values["uer"] = 100 * sums["c_errors"] / max(sums["c_total"], 1)
            values["wer"] = 100 * sums["w_errors"] / max(sums["w_total"], 1)
            values["raw_wer"] = 100 * sums["wv_errors"] / max(sums["w_total"], 1)
        return values

    def valid_value_names(self, criterion: Criterion) -> frozenset[str] | None:
        names = super().valid_value_names(criterion)
        has_labels = self.dictionary is not None
        return names | {"uer", "wer", "raw_wer"} if names is not None and has_labels else names

    # ------------------------------------------------------------------------------------------ state

    def digest(self) -> dict[str, str]:
        found = {}
        for split, clips in self._datasets.items():
            found[f"manifest {split}"] = data_digest(clips.manifest.names, clips.manifest.sizes)
            if clips.labels is not None:
                found[f"labels of {split}"] = data_digest(clips.labels.ids, clips.labels.offsets)
        if self.dictionary is not None:
            found["dictionary"] = text_digest(self.dictionary.symbols)
        return found

    def state_dict(self) -> dict[str, Any]:
        return {} if self.dictionary is None else {"dictionary": list(self.dictionary.symbols)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "dictionary" in state:
            self._dictionary = Dictionary.from_symbols(state["dictionary"])


@register_task("audio_finetuning", AudioPretrainingConfig)
class AudioFinetuningTask(AudioPretrainingTask):
    """The newer name of the same task where there are labels.

    Raises:
        ConfigError: `--labels` is missing.
    """

    def __init__(self, config: AudioPretrainingConfig, seed: int = 1) -> None:
        if config.labels is None:
            raise ConfigError("--task audio_finetuning needs --labels, such as --labels ltr")
        super().__init__(config, seed)


def _forward(model: torch.nn.Module, batch: AudioBatch) -> Any:
    return model(batch.source, batch.lengths if batch.is_padded else None, batch.seed)
