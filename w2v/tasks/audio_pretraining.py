"""Pretraining on raw audio, and fine-tuning where there are labels (`--labels ltr`).

DATA holds `train.tsv`, `valid.tsv`, ...; for fine-tuning also `train.ltr`, ... and `dict.ltr.txt`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from w2v.config import build_config
from w2v.config.sections import DatasetConfig
from w2v.convert import ModelFile, read_model_file
from w2v.convert.model_file import CTC, MASKED_MODEL, check_rate
from w2v.criterions.base import Criterion
from w2v.data.dataset import AudioDataset
from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.data.iterator import EpochIterator
from w2v.data.labels import Labels, join_labels, read_labels
from w2v.data.manifest import Manifest, join_manifests
from w2v.data.post_process import MARKS, fitting_post_process
from w2v.data.pseudo_labels import check_labels
from w2v.data.symbols import dictionary_notes
from w2v.data.text import WORD_END
from w2v.decoders import Decoder, build_decoder, wer_args_config
from w2v.errors import ConfigError, DataError, listed
from w2v.functional.conv_spec import frame_lengths
from w2v.models.base import MODELS, W2vModel
from w2v.registry import Entry
from w2v.scoring.ctc_errors import count_errors
from w2v.tasks.audio_task import AudioPretrainingConfig, AudioTask
from w2v.tasks.base import register_task
from w2v.tasks.batches import data_digest, text_digest
from w2v.tasks.sources import Sources, short_names
from w2v.types import AudioBatch, CtcOutput, IntArray, Loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """A manifest and its labels, one entry per line."""

    manifest: Manifest
    labels: Labels | None


@register_task("audio_pretraining", AudioPretrainingConfig)
class AudioPretrainingTask(AudioTask):
    """Batches of audio; with `--labels` also a dictionary, error rates and the pretrained encoder.

    Attributes:
        dataset_class: reads the clips; a derived task may name another one.
    """

    dataset_class: ClassVar[type[AudioDataset]] = AudioDataset
    joins_subsets = True

    def __init__(self, config: AudioPretrainingConfig, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._ends: dict[str, IntArray] = {}  # of a split: lines of the joined manifest up to the end of each part
        self._decoders: dict[Any, Decoder] = {}
        self._dictionary: Dictionary | None = None

    @property
    def dictionary(self) -> Dictionary | None:
        """The label symbols, read from `dict.LABELS.txt` at the first use; None without `--labels`."""
        if self._dictionary is None and self.config.labels is not None:
            path = Path(self.config.data) / f"dict.{self.config.labels}.txt"
            if not path.exists():
                raise DataError(
                    f"cannot read the dictionary {path}: No such file or directory; w2v-labels --dict writes it"
                )
            self._dictionary = Dictionary.from_file(path)
            for note in dictionary_notes(self._dictionary.symbols[len(SPECIALS) :]):
                logger.warning("%s: %s", path, note)
        return self._dictionary

    # ------------------------------------------------------------------------------------------ data

    def _dataset(self, split: str) -> AudioDataset:
        """Join the clips of a split, or of several, with their labels."""
        parts = [self._read(name) for name in split.split(",")]
        self._ends[split] = np.cumsum([len(part.manifest) for part in parts])
        manifest = join_manifests([part.manifest for part in parts])
        given = [part.labels for part in parts if part.labels is not None]
        labels = join_labels(given) if given else None
        impossible = [self._impossible(part.manifest, part.labels) for part in parts]
        return self.dataset_class(
            manifest,
            labels,
            pad=self.config.enable_padding or labels is not None,
            impossible=np.concatenate(found) if (found := [i for i in impossible if i is not None]) else None,
            **self._reading(),
        )

    def _read(self, name: str) -> _Part:
        """Read one manifest and its labels."""
        manifest, config, path = self._manifest(name), self.config, Path(self.config.data) / name
        if config.labels is None:
            return _Part(manifest, None)
        if self.dictionary is None:
            raise ConfigError("--labels: there is no dictionary")
        labels = read_labels(f"{path}.{config.labels}", len(manifest), self.dictionary)
        labels.check_known()
        if labels.num_unknown:
            logger.warning(labels.unknown_warning())
        if labels.word_end is not None and not (labels.ids == labels.word_end).any():
            logger.warning(
                "%s.%s: no line holds %r, by which the dictionary ends a word: words are glued together, and wer "
                "counts whole texts", path, config.labels, WORD_END,
            )  # fmt: skip
        self._check_dictionary(path)
        check_labels(
            path, manifest, labels, self.dictionary, sample_rate=config.sample_rate, normalize=config.normalize
        )
        return _Part(manifest, labels)

    def _check_dictionary(self, name: Path) -> None:
        """Compare the dictionary beside a manifest of another folder with ours.

        Raises:
            DataError: it is another one.
        """
        there = name.with_name(f"dict.{self.config.labels}.txt")
        if self.dictionary is None or not there.exists() or there.parent.samefile(self.config.data):
            return
        difference = set(Dictionary.from_file(there).symbols) ^ set(self.dictionary.symbols)
        if difference:
            raise DataError(
                f"{there}: is another dictionary than that of {self.config.data}: only one of them has "
                f"{min(difference)!r}; the labels of {name.name} are written in it"
            )

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
        clips, names = self.load_dataset(split), split.split(",")
        if len(names) > 1:
            weights = tuple(dataset.train_sources[name] for name in names)
            self.sources = Sources(short_names(names), weights, self._ends[split], clips.rows)
            shares = zip(names, weights, np.diff(self._ends[split], prepend=0), strict=True)
            logger.info("joined: %s", "; ".join(f"{name}: {count} clips, weight {w:g}" for name, w, count in shares))
        return super().train_batches(split, dataset)

    def prepare_validation(self, split: str, dataset: DatasetConfig, criterion: Criterion) -> None:
        super().prepare_validation(split, dataset, criterion)
        self._decoder_of(criterion)
        symbol = getattr(criterion.config, "post_process", None)
        symbols = [] if self.dictionary is None else self.dictionary.symbols
        if not symbols or symbol not in MARKS or fitting_post_process(symbol, symbols) == symbol:
            return
        logger.warning(
            "the dictionary has no %r, by which --post-process %s finds words: each text counts as one word, and wer "
            "is the share of texts with an error%s", MARKS[symbol], symbol,
            "; its words end in '|': give --post-process letter" if WORD_END in symbols else "",
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ model

    def _build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        """Build the model; for fine-tuning with the pretrained encoder of `--w2v-path`.

        Raises:
            ConfigError: `--normalize` or `--sample-rate` differs from pretraining.
            CheckpointError: the pretrained file cannot be read or does not fit.
        """
        if self.dictionary is None:
            return entry.cls.build(config)
        context: dict[str, Any] = {"num_classes": len(self.dictionary)}
        path = getattr(config, "w2v_path", None)
        if path is not None and config.w2v_args is None:
            file, context["pretrained_config"] = self._read_pretrained(path)
            is_random = config.no_pretrained_weights
            context["pretrained_name"], context["pretrained_state"] = file.name, None if is_random else file.state
            if config.bert_path is not None:
                # The quantizer is never trained here, so its weights are always those of the file.
                context |= {"pretrained_state": file.state, **_read_bert(config.bert_path, is_random=is_random)}
        return entry.cls.build(config, **context)

    def _read_pretrained(self, path: str) -> tuple[ModelFile, Any]:
        """Read a pretrained model of any kind that `w2v.convert` knows; return it and its options."""
        file = read_model_file(path)
        for note in file.notes:
            logger.info("--w2v-path %s: %s", path, note)
        if file.normalize != self.config.normalize:
            raise ConfigError(
                f"--w2v-path {path} was pretrained {'with' if file.normalize else 'without'} --normalize; fine-tune it "
                f"{'with' if file.normalize else 'without'} --normalize, too"
            )
        check_rate("--w2v-path", path, file, self.config.sample_rate)
        if file.name == CTC:
            logger.info("--w2v-path %s is fine-tuned already: its encoder is taken, its output layer is not", path)
        entry = MODELS.get(file.name)
        values = {**entry.overrides, **file.config["model"]}
        return file, build_config(entry.config, values, f"--w2v-path {path}")

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
        found = super().digest()
        for split, clips in self._datasets.items():
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


def _read_bert(path: str, *, is_random: bool) -> dict[str, Any]:
    """Read a masked language model for fine-tuning: options, tokens and, unless weights are to be random, tensors."""
    file = read_model_file(path)
    if not file.name.startswith(MASKED_MODEL) or file.symbols is None:
        raise ConfigError(f"--bert-path {path}: holds a {file.name}; it must be a masked language model (roberta_base)")
    entry = MODELS.get(file.name)
    config: Any = build_config(entry.config, {**entry.overrides, **file.config["model"]}, f"--bert-path {path}")
    return {"bert_config": config, "bert_symbols": file.symbols, "bert_state": None if is_random else file.state}
