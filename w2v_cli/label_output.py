"""What becomes of hypotheses under `--write-labels` and `--calibrate`: scored, filtered, written, reported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import torch

from w2v.data.dictionary import Dictionary
from w2v.data.pseudo_labels import PseudoLabel, Teacher, prepare_labels, write_labels
from w2v.decoders import Decoder, DecoderConfig, build_decoder
from w2v.errors import ConfigError
from w2v.inference.emissions import ModelEmissions
from w2v.inference.label_writing import Filters, calibration_lines, score_labels, select
from w2v.inference.load import load_language_model
from w2v.types import Emissions, Hypothesis
from w2v_cli.decode_workers import decode
from w2v_cli.emission_source import EmissionSource, Reader, SourceConfig, open_reader
from w2v_cli.label_flags import LabelFlags

LABELS = "labels"  # kind of line of a transcript: a PseudoLabel as JSON


@dataclass(frozen=True)
class SecondModel:
    """The model that has to agree, with a decoder of its own.

    Attributes:
        reader: gives its emissions of any clips.
        decoder: makes words of them.
        workers: processes that decode.
    """

    reader: Reader
    decoder: Decoder
    workers: int

    def texts(self, first: EmissionSource) -> Iterator[list[str]]:
        """Yield what it hears in each clip of the batches of another source."""
        emissions = self.reader.read(first.manifest, first.of_this_rank())
        for _, by_clip in decode(emissions, self.decoder, self.workers):
            yield [" ".join(hypotheses[0].words) for hypotheses in by_clip]


@dataclass(frozen=True)
class LabelJob:
    """What is done to hypotheses, beside transcripts.

    Attributes:
        flags: the command line.
        second: the model of `--min-agreement`.
    """

    flags: LabelFlags
    second: SecondModel | None = None

    @property
    def filters(self) -> Filters:
        """The least scores of the command line."""
        flags = self.flags
        least = None if flags.min_agreement is None else flags.min_agreement[1]
        return Filters(flags.min_confidence, flags.min_score, least, flags.min_lm_score, flags.max_loops)

    def seconds(self, source: EmissionSource) -> Iterator[list[str] | None]:
        """Yield what the second model hears in the clips of each batch; None where there is none."""
        return repeat(None) if self.second is None else self.second.texts(source)

    def lines(
        self, source: EmissionSource, batch: Emissions, by_clip: list[list[Hypothesis]], others: list[str] | None
    ) -> list[str]:
        """Return the scored hypothesis of each clip of a batch, as JSON."""
        found = score_labels(batch, by_clip, source.dictionary, source.info.post_process, others)
        return [json.dumps(dataclasses.asdict(label)) for label in found]

    def report(self, source: EmissionSource, labels: list[PseudoLabel], decoder: str) -> bool:
        """Write the labels that are kept, print what became of the others; return whether any were kept.

        Raises:
            DataError: a file cannot be written.
        """
        manifest, rate = source.manifest, source.info.sample_rate
        chosen = select(labels, self.filters, lambda row: int(manifest.sizes[row]) / rate)
        name = Path(str(self.flags.write_labels))
        print("\n".join(f"{name.name}: {line}" for line in chosen.lines()), flush=True)
        if chosen.kept:
            write_labels(name, manifest, chosen.kept, teacher_of(source, decoder), chosen.plain())
        else:
            print(f"{name.name}: nothing is kept, so nothing is written (exit code 1)", flush=True)
        return bool(chosen.kept)

    def table(self, source: EmissionSource, labels: list[PseudoLabel]) -> None:
        """Print the calibration tables of labelled clips."""
        references = {label.row: (source.reference(label.row) or ("", ""))[1] for label in labels}
        lengths = [int(source.manifest.sizes[label.row]) / source.info.sample_rate for label in labels]
        lines = calibration_lines(labels, [references[label.row] for label in labels], lengths, self.filters)
        print("\n".join(f"calibration: {line}" for line in lines), flush=True)


def teacher_of(source: EmissionSource, decoder: str) -> Teacher:
    """Return what label files tell of the model that wrote them."""
    info, reader = source.info, source.reader
    # A file of emissions does not tell how its clips were normalised.
    normalize = reader.loaded.task.config.normalize if isinstance(reader, ModelEmissions) else None
    return Teacher(info.model, decoder, info.labels, info.sample_rate, normalize, list(info.symbols))


def open_labels(
    flags: LabelFlags,
    config: SourceConfig,
    decoding: DecoderConfig,
    workers: int,
    device: torch.device,
) -> LabelJob | None:
    """Open the second model, where there is one; None where no labels are asked for.

    Raises:
        W2vError: it cannot be read.
    """
    if not flags.is_on:
        return None
    if flags.second_model is None:
        return LabelJob(flags)
    other = dataclasses.replace(config, path=flags.second_model, load_emissions=None, dump_emissions=None)
    reader, info = open_reader(other, device, flag="--min-agreement")
    decoder = build_decoder(decoding, Dictionary(info.symbols), info.post_process, load_language_model)
    return LabelJob(flags, SecondModel(reader, decoder, workers))


def check_flags(flags: LabelFlags, config: SourceConfig, decoding: DecoderConfig) -> None:
    """Check what can be said before a model is opened.

    Raises:
        ConfigError: flags do not go together.
    """
    if flags.min_lm_score is not None and decoding.kenlm_model is None:
        raise ConfigError("--min-lm-score needs a decoder with a language model: --w2l-decoder kenlm --lm-model FILE")
    if flags.write_labels is not None and config.shard.count > 1:
        raise ConfigError(
            "--write-labels makes one set of all clips, and --num-shards parts them by hand; start one run, on as many "
            "ranks as there are GPUs, or write the labels of several manifests"
        )


def prepare(job: LabelJob, source: EmissionSource, decoder: str) -> None:
    """Look at what is where labels go, before anything is computed."""
    if job.flags.write_labels is not None:
        prepare_labels(Path(job.flags.write_labels), teacher_of(source, decoder), source.manifest)


def read_label(line: str) -> PseudoLabel:
    """Return what `LabelJob.lines` wrote."""
    return PseudoLabel(**json.loads(line))
