"""`w2v-infer`: transcripts of a manifest, and their word error rate where there are labels.

Flags, files and lines are those of the original's `examples/speech_recognition/infer.py`. What differs: no clip is
dropped, frames of padding are never decoded, and the checkpoint alone says how its input is made. `w2v-infer tune`
is `tune`'s, `w2v-infer compare` is `compare`'s.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from w2v import distributed
from w2v.data.dictionary import Dictionary
from w2v.decoders import Decoder, DecoderConfig, build_decoder
from w2v.errors import ConfigError
from w2v.inference.load import load_language_model
from w2v.inference.part_files import PartFiles, settings_key
from w2v.types import Emissions, IntArray
from w2v.version import __version__
from w2v_cli.cpu import speed_on
from w2v_cli.decode_workers import Hypotheses, decode, default_workers
from w2v_cli.emission_source import EmissionSource, SourceConfig, open_clips, open_reader
from w2v_cli.infer_flags import parse_flags
from w2v_cli.infer_output import (
    OutputConfig,
    Results,
    Transcript,
    TranscriptWriter,
    file_name,
    make_results_folder,
)
from w2v_cli.label_flags import LabelFlags
from w2v_cli.label_output import LabelJob, check_flags, open_labels, prepare, read_label
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging, show_progress
from w2v_cli.sharding import first_of_ranks, joined_ranks, own_rank

logger = logging.getLogger("w2v-infer")

# Flags that transcripts do not depend on, and files that are named by others or are too large to be looked at.
SAME_TRANSCRIPTS = {
    *("data", "results_path", "dump_emissions", "load_emissions", "num_workers", "decode_workers", "num_shards"),
    *("shard_id", "quiet", "log_format", "log_interval", "no_progress_bar"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] == "tune":
        from w2v_cli.tune import tune

        return run(lambda: tune(arguments[1:]))
    if arguments and arguments[0] == "compare":
        from w2v_cli.compare import compare

        return run(lambda: compare(arguments[1:]))
    return run(lambda: infer(arguments))


@dataclass(frozen=True)
class Job:
    """What is transcribed, and what becomes of it.

    Attributes:
        config: which clips.
        output: what is written.
        source: their emissions.
        decoder: makes words of them.
        writer: makes lines of words.
        start: when it began.
        labels: scores hypotheses, and makes labels of them.
    """

    config: SourceConfig
    output: OutputConfig
    source: EmissionSource
    decoder: Decoder
    writer: TranscriptWriter
    start: float
    labels: LabelJob | None = None

    @property
    def writes_labels(self) -> bool:
        """Whether labels to train on are made (`--write-labels`)."""
        return self.labels is not None and self.labels.flags.write_labels is not None

    @property
    def suffix(self) -> str:
        """What follows the kind in the names of result files."""
        model = Path(self.config.path).name if self.config.path else self.source.info.model
        return f"{model}-{self.config.gen_subset}"


def infer(argv: Sequence[str]) -> int:
    """Transcribe what the flags name.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule.
    """
    purpose = "Transcribe a manifest and score the transcripts."
    kinds: dict[str, type[Any]] = {"emissions": SourceConfig, "output": OutputConfig, "labels": LabelFlags}
    config, output, labels, decoder_config = parse_flags(argv, "w2v-infer", purpose, **kinds)
    return transcribe_clips(config, output, labels, decoder_config)


def transcribe_clips(
    config: SourceConfig,
    output: OutputConfig,
    labels: LabelFlags,
    decoder_config: DecoderConfig,
    write_clips: Callable[[int], None] | None = None,
) -> int:
    """Transcribe the clips of a manifest, or make labels of what is heard in them; return the exit code.

    Args:
        config: which clips, and of which model.
        output: what is written.
        labels: what labels are made of it.
        decoder_config: what makes words.
        write_clips: writes the manifest, given the model's sample rate; None: it is there.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule.
    """
    check_flags(labels, config, decoder_config)
    with joined_ranks(own_rank(config, cpu=config.cpu), cpu=config.cpu) as device, speed_on(device):
        # Without files the transcripts go to stdout, so what is said about them goes to stderr.
        stream = sys.stdout if output.results_path else sys.stderr
        set_up_logging(is_master=distributed.is_master() and not config.quiet, stream=stream)
        reader, info = open_reader(config, device)
        decoder = build_decoder(decoder_config, Dictionary(info.symbols), info.post_process, load_language_model)

        def open_main() -> EmissionSource:
            if write_clips is not None:
                write_clips(info.sample_rate)
            return open_clips(config, reader, info, has_labels=write_clips is None)

        where = config if labels.calibrate is None else calibration_set(config, labels.calibrate)
        source = open_main() if labels.calibrate is None else open_clips(where, reader, info)
        scored = open_labels(labels, config, decoder_config, num_workers(config, decoder), device)
        if scored is not None and labels.calibrate is not None:
            show_calibration(Job(where, OutputConfig(), source, decoder, no_lines(source), time.monotonic(), scored))
            if labels.write_labels is None:
                return 0
            source = open_main()
        writer = TranscriptWriter(source, output, with_nbest=decoder_config.nbest > 1)
        job = Job(config, output, source, decoder, writer, time.monotonic(), scored)
        if scored is not None:
            prepare(scored, source, decoder_config.w2l_decoder)
        if output.results_path and (distributed.world_size() > 1 or config.shard.count > 1):
            num_missing = transcribe_in_parts(job, Path(output.results_path))
        else:
            num_missing = write_results(job, in_order(transcribe(job)), prefix=config.shard_prefix, start=job.start)
        if num_missing:
            return 1  # all others are there; what is missing has been counted and named
    return 0


def num_workers(config: SourceConfig, decoder: Decoder) -> int:
    """Return the number of processes that decode."""
    return default_workers(decoder.config) if config.decode_workers is None else config.decode_workers


def calibration_set(config: SourceConfig, manifest: str) -> SourceConfig:
    """Return where the labelled clips of `--calibrate` are."""
    path = Path(manifest)
    return dataclasses.replace(config, data=str(path.parent), gen_subset=path.stem, dump_emissions=None)


def no_lines(source: EmissionSource) -> TranscriptWriter:
    """Return what writes the plain files alone."""
    return TranscriptWriter(source, OutputConfig(), with_nbest=False)


def show_calibration(job: Job) -> None:
    """Print error rates and shares kept of labelled clips; every rank must call this.

    Raises:
        ConfigError: there are no labels.
    """
    if job.source.references is None:
        path = Path(job.config.data) / job.config.gen_subset
        raise ConfigError(f"--calibrate {path}.tsv: needs {path}.{job.config.labels or job.source.info.labels}")
    found = [read_label(transcript.label) for transcript in in_order(transcribe(job))]
    if job.labels is not None and distributed.is_master():
        job.labels.table(job.source, sorted(found, key=lambda label: label.row))


def transcribe(job: Job) -> Iterator[tuple[int, list[Transcript]]]:
    """Yield the transcripts of each batch of this rank, with the batch's number among those of all ranks."""
    config, source, decoder = job.config, job.source, job.decoder
    workers = num_workers(config, decoder)
    emissions = source.read(config.shard_file(config.dump_emissions) if config.dump_emissions else None)

    def size_of(decoded: tuple[Emissions, Hypotheses]) -> tuple[int, float]:
        return len(decoded[0].rows), source.seconds(decoded[0])

    decoded = show_progress(
        decode(emissions, decoder, workers), size_of, source.work, config.progress_style, config.log_interval
    )
    seconds = repeat(None) if job.labels is None else job.labels.seconds(source)
    for number, ((batch, hypotheses), others) in enumerate(zip(decoded, seconds, strict=False)):
        transcripts = job.writer.transcripts(batch, hypotheses)
        if job.labels is not None:
            labels = job.labels.lines(source, batch, hypotheses, others)
            pairs = zip(transcripts, labels, strict=True)
            transcripts = [dataclasses.replace(transcript, label=label) for transcript, label in pairs]
        yield number * distributed.world_size() + distributed.rank(), transcripts


def write_results(job: Job, transcripts: Iterable[Transcript], *, prefix: str, start: float | None) -> int:
    """Write, or print, and score transcripts, and write labels; ranks other than the first one pass them on only.

    Returns the number of clips that could not be read, and one more where no label is kept.

    Args:
        job: what was transcribed.
        transcripts: in the order of the files.
        prefix: of the files' names.
        start: when the work on them began; None: parts of it were done in other runs.
    """
    if not distributed.is_master():
        for _ in transcripts:
            pass
        return 0
    labels = []
    with Results(
        job.source, job.output, job.writer.kinds, suffix=job.suffix, prefix=prefix, start=start,
        shows=not job.writes_labels,
    ) as results:  # fmt: skip
        for transcript in transcripts:
            results.add(transcript)
            if job.writes_labels:
                labels.append(read_label(transcript.label))
    results.report(job.config.gen_subset, job.writer.speakers, job.config.seed)
    if job.labels is not None and job.writes_labels:
        is_some = job.labels.report(job.source, labels, job.decoder.config.w2l_decoder)
        return results.num_unreadable + (not is_some)
    return results.num_unreadable


def transcribe_in_parts(job: Job, folder: Path) -> int:
    """Write the results of a run that is one of several, or has several ranks; each keeps what it has done in a file.

    A run that lost a rank resumes with what is missing. The first rank writes the files of this run; the run that ends
    last, those of all runs. Returns the number of clips that could not be read.
    """
    config, source = job.config, job.source
    make_results_folder(folder)
    key = first_of_ranks(lambda: run_key(job))
    parts = PartFiles(folder / file_name("hypo.word", job.suffix), key, len(source.manifest))
    done = first_of_ranks(parts.done)
    if config.dump_emissions is not None:
        done[:] = False  # what an earlier run has transcribed is in no file of emissions
    missing = [batch for batch in source.batches if not done[batch].all()]
    if resumed := len(source.batches) - len(missing):
        logger.info("resuming an earlier run, which has done %d of %d batches", resumed, len(source.batches))
    rest = dataclasses.replace(job, source=dataclasses.replace(source, batches=missing))
    with parts.writer(f"{config.shard.index}-{distributed.rank()}") as write:
        for _, transcripts in transcribe(rest):
            write({transcript.row: json.dumps(dataclasses.asdict(transcript)) for transcript in transcripts})
    distributed.barrier()
    if not distributed.is_master():
        return 0
    start = None if resumed else job.start
    num_unreadable = 0
    if config.shard.count > 1:
        num_unreadable = write_results(job, _read(parts, source.batches), prefix=config.shard_prefix, start=start)
    left = int((~parts.done()).sum())
    if left:
        logger.info("the results of all runs are made by the one that ends last; %d clips are left", left)
        return num_unreadable
    num_unreadable = write_results(
        job, _read(parts, source.plan), prefix="", start=start if config.shard.count == 1 else None
    )
    parts.remove()
    return num_unreadable


def run_key(job: Job) -> str:
    """Return what transcripts depend on, as a short text."""
    config = job.config
    settings: dict[str, Any] = {"version": __version__}
    for part in (config, job.output, job.decoder.config):
        settings |= {name: value for name, value in dataclasses.asdict(part).items() if name not in SAME_TRANSCRIPTS}
    settings |= {"labels": job.labels is not None, "second": job.labels and job.labels.flags.second_model}
    # By name and content: another machine may have a file elsewhere.
    files = {name: Path(v) for name, v in settings.items() if isinstance(v, str) and v and Path(v).exists()}
    settings |= {name: path.name for name, path in files.items()}
    labels = Path(config.data) / f"{config.gen_subset}.{config.labels or job.source.info.labels}"
    return settings_key(settings, [*files.values(), labels], job.source.manifest)


def _read(parts: PartFiles, batches: Iterable[IntArray]) -> Iterator[Transcript]:
    rows = (int(row) for batch in batches for row in batch)
    return (Transcript(**json.loads(text)) for text in parts.read(rows))


def in_order(batches: Iterator[tuple[int, list[Transcript]]]) -> Iterator[Transcript]:
    """Yield the transcripts of all ranks in the order of their batches; with several ranks, once all are done."""
    if distributed.world_size() > 1:
        everywhere = chain.from_iterable(distributed.gather_objects(list(batches)))
        batches = iter(sorted(everywhere, key=lambda numbered: numbered[0]))
    for _, transcripts in batches:
        yield from transcripts


if __name__ == "__main__":
    sys.exit(main())
