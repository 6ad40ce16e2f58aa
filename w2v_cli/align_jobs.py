"""The work of `w2v-align`: recordings to emissions, and with their texts, on all cores, to words with times."""

from __future__ import annotations

import logging
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from w2v import distributed
from w2v.data.audio_time import audio_time
from w2v.errors import DataError, MissingPackageError, W2vError
from w2v.files import make_folder
from w2v.inference.emission_file import EmissionFile, EmissionInfo
from w2v.inference.emissions import ctc_info
from w2v.inference.load import load_model
from w2v.inference.prepare import number_format
from w2v.inference.recording import FileRecording, Recording
from w2v.inference.recording_emissions import RecordingEmissions, RecordingFrames
from w2v.inference.result import render
from w2v.inference.text_alignment import TextAligner, TextAlignment
from w2v.inference.wrong_text import likely_cause, named_characters, weakest_stretch
from w2v.system import forked_workers
from w2v_cli.align_flags import AlignFlags, ProgramConfig
from w2v_cli.align_pairs import Pair, find_pairs
from w2v_cli.align_split import ClipWriter
from w2v_cli.cpu import speed_on
from w2v_cli.decode_workers import WorkerPool
from w2v_cli.progress import Work, set_up_logging, show_progress
from w2v_cli.sharding import joined_ranks, own_part, own_rank
from w2v_cli.transcript_files import TranscriptFiles, stems_of
from w2v_cli.visualization.stretch import write_picture

logger = logging.getLogger("w2v-align")

NOT_HEARD = 3  # exit code


@dataclass(frozen=True)
class Job:
    """One recording to be aligned.

    Attributes:
        pair: recording and text.
        stem: what its files are called.
    """

    pair: Pair
    stem: str


@dataclass
class Report:
    """What became of the recordings of this rank.

    Attributes:
        failed: name and reason of those that could not be aligned.
        not_heard: names of those whose text was not heard.
        missing: characters that the dictionary lacks.
        num_aligned: the others and these.
    """

    failed: list[str] = field(default_factory=list)
    not_heard: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    num_aligned: int = 0

    def add(self, other: Report) -> None:
        self.failed += other.failed
        self.not_heard += other.not_heard
        self.missing += other.missing
        self.num_aligned += other.num_aligned


class FrameSource(Protocol):
    """What gives the emissions of jobs: a model or a file."""

    @property
    def info(self) -> EmissionInfo: ...
    def read(self, jobs: Iterable[Job]) -> Iterator[RecordingFrames]: ...


@dataclass(frozen=True)
class ModelSource:
    """A model that is run over the recordings."""

    emissions: RecordingEmissions

    @property
    def info(self) -> EmissionInfo:
        return self.emissions.info

    def read(self, jobs: Iterable[Job]) -> Iterator[RecordingFrames]:
        return self.emissions.read(FileRecording(job.pair.path) for job in jobs)


@dataclass(frozen=True)
class FileSource:
    """Emissions that were written before, with the recordings' names in the manifest."""

    file: EmissionFile

    @property
    def info(self) -> EmissionInfo:
        return self.file.info

    def read(self, jobs: Iterable[Job]) -> Iterator[RecordingFrames]:
        for number, job in enumerate(jobs):
            name = job.pair.name
            if name in self.file:
                yield RecordingFrames(number, self.file.num_samples(name), self.file.log_probs(name).numpy())
            else:
                empty = np.zeros((0, len(self.info.symbols)), dtype=np.float32)
                yield RecordingFrames(number, None, empty, f"{self.file.path} has no emissions of it")


def run_jobs(flags: AlignFlags) -> int:
    """Align all that the flags name; return the exit code.

    Raises:
        W2vError: nothing can be aligned, or the only recording cannot.
    """
    config = flags.program
    rank = own_rank(config, cpu=config.cpu)
    with joined_ranks(rank, cpu=config.cpu) as device, speed_on(device):
        set_up_logging(is_master=distributed.is_master() and not config.quiet, stream=sys.stderr)
        pairs = find_pairs(config.audio, config.text, allow_outside_root=config.allow_outside_root)
        jobs = [Job(pair, stem) for pair, stem in zip(pairs, stems_of([pair.name for pair in pairs]), strict=True)]
        source = open_source(config, device)
        results = Results(flags, source.info)
        # First the part, then what is left of it: another rank may be writing already.
        part = own_part(config, rank, jobs)
        mine = [job for job in part if not results.is_done(job.stem)]
        if len(mine) < len(part):
            logger.info("%d of %d recordings are done already", len(part) - len(mine), len(part))
        report = Report()
        align_all(mine, source, TextAligner(source.info, flags.alignment), results, report, is_only=len(jobs) == 1)
        everywhere = Report()
        for other in distributed.gather_objects([report]):
            for part in other:
                everywhere.add(part)
        if distributed.is_master():
            results.finish(jobs)
        return conclude(everywhere, is_only=len(jobs) == 1)


def open_source(config: ProgramConfig, device: torch.device) -> FrameSource:
    """Open the model, or the file of emissions."""
    if config.model.endswith(".safetensors"):
        try:
            file = EmissionFile(config.model)
        except DataError:
            pass  # a model then, or `load_model` says what it is
        else:
            file.info = replace(file.info, post_process=config.post_process or file.info.post_process)
            return FileSource(file)
    loaded = load_model(config.model, user_dir=config.user_dir, dictionary=config.dict, language=config.language)
    half = number_format(config, device)
    info = ctc_info(loaded, config.post_process)
    return ModelSource(RecordingEmissions(loaded, info, device, half, config.max_tokens, config.num_threads))


class Results:
    """Where alignments go: to files, to stdout, or into clips.

    Args:
        flags: which of these.
        info: of the model.
    """

    def __init__(self, flags: AlignFlags, info: EmissionInfo) -> None:
        config = flags.program
        self.config = config
        self.style = flags.style
        self.files: TranscriptFiles | None = None
        self.clips: ClipWriter | None = None
        if config.output_dir is not None:
            folder = Path(config.output_dir)
            self.files = TranscriptFiles(folder, config.formats, flags.style, config.overwrite, with_chars=True)
        if config.split is not None:
            make_folder(config.split, "--split")
            star = flags.alignment.star
            self.clips = ClipWriter(Path(config.split), info, flags.cut, config.min_confidence, star)

    def is_done(self, stem: str) -> bool:
        """Whether an earlier run left all that is asked for of a recording."""
        has_picture = self.config.picture is None or self._picture(stem).is_file()
        has_files = self.files is None or (self.files.is_done(stem) and has_picture)
        has_clips = self.clips is None or (self.clips.is_done(stem) and not self.config.overwrite)
        return (self.files is not None or self.clips is not None) and has_files and has_clips

    def add(self, job: Job, alignment: TextAlignment) -> None:
        """Write, or print, one alignment."""
        if self.files is not None:
            self.files.write(job.stem, alignment.transcript)
            if self.config.picture is not None:
                write_picture(self._picture(job.stem), job.pair.path, alignment.transcript, self.config.picture)
        if self.clips is not None:
            self.clips.write(job.stem, job.pair.path, alignment)
        if self.files is None and self.clips is None:
            (kind,) = self.config.formats
            transcript = alignment.transcript
            text = transcript.textgrid(with_chars=True) if kind == "textgrid" else render(transcript, kind, self.style)
            sys.stdout.write(text)
            sys.stdout.flush()

    def _picture(self, stem: str) -> Path:
        return Path(self.config.output_dir or "") / f"{stem}.png"

    def finish(self, jobs: Sequence[Job]) -> None:
        """Write what lists all recordings."""
        if self.clips is not None:
            found = self.clips.finish([job.stem for job in jobs])
            logger.info(
                "%s: %d clips, %s; %s rejected", self.config.split, found["clips"], audio_time(found["seconds"]),
                audio_time(found["rejected"]),
            )  # fmt: skip


def align_all(
    jobs: Sequence[Job],
    source: FrameSource,
    aligner: TextAligner,
    results: Results,
    report: Report,
    *,
    is_only: bool,
) -> None:
    """Align the recordings of this rank, and note what became of them."""
    accepted: list[Job] = []
    texts: list[list[str]] = []

    def fitting() -> Iterator[Job]:
        """Yield the jobs whose text can be aligned, as far as this is known before anything is computed."""
        for job in jobs:
            try:
                lines = job.pair.lines()
                check_text(lines, FileRecording(job.pair.path), source, aligner)
            except DataError as e:
                note_failure(job, str(e), report, is_only=is_only)
                continue
            texts.append(lines)
            accepted.append(job)
            yield job

    num_workers = forked_workers() if results.config.num_workers is None else results.config.num_workers
    found = aligned(source.read(fitting()), texts, accepted, aligner, 0 if is_only else num_workers)
    ordered = found if results.files is not None or results.clips is not None else in_order(found)
    style = "none" if results.config.quiet or is_only else None
    shown = show_progress(ordered, size_of, Work("aligned", len(jobs), 0.0), style)
    for number, alignment in shown:
        job = accepted[number]
        if isinstance(alignment, str):
            note_failure(job, alignment, report, is_only=is_only)
            continue
        try:
            results.add(job, alignment)
        except (DataError, MissingPackageError) as e:
            note_failure(job, str(e), report, is_only=is_only)
            continue
        note_alignment(job, alignment, results.config, report, is_only=is_only)


def size_of(aligned: tuple[int, TextAlignment | str]) -> tuple[int, float]:
    """Return 1 recording, and its seconds, which are not known of one that failed."""
    _, alignment = aligned
    return 1, 0.0 if isinstance(alignment, str) else alignment.transcript.duration


def check_text(lines: list[str], recording: Recording, source: FrameSource, aligner: TextAligner) -> None:
    """Refuse a text that is longer than its recording, before the model is run.

    Raises:
        DataError: it is.
    """
    seconds = recording.seconds if isinstance(source, ModelSource) else None
    if seconds is not None:
        info = source.info
        # A frame more than by calculation: resampling may round up.
        aligner.spell(lines, int(seconds * info.sample_rate) // info.stride + 1)


def aligned(
    frames: Iterator[RecordingFrames],
    texts: Sequence[list[str]],
    jobs: Sequence[Job],
    aligner: TextAligner,
    num_workers: int,
) -> Iterator[tuple[int, TextAlignment | str]]:
    """Yield number and alignment of each recording, or why there is none."""

    def align(request: tuple[npt.NDArray[np.float32], int, list[str], str]) -> TextAlignment:
        return aligner.align(*request)

    # Workers are forked before the first recording is read: reading begins threads.
    with WorkerPool(align, num_workers) if num_workers else nullcontext() as pool:
        waiting: deque[tuple[int, Future[TextAlignment]]] = deque()
        for found in frames:
            if found.num_samples is None:
                yield found.number, found.reason
                continue
            request = (found.log_probs, found.num_samples, texts[found.number], jobs[found.number].pair.name)
            if pool is None:
                yield found.number, _result(partial(align, request))
                continue
            waiting.append((found.number, pool.submit(request)))
            while len(waiting) > 2 * num_workers:  # more would fill the memory with emissions
                number, future = waiting.popleft()
                yield number, _result(future.result)
        for number, future in waiting:
            yield number, _result(future.result)


def _result(compute: Callable[[], TextAlignment]) -> TextAlignment | str:
    try:
        return compute()
    except W2vError as e:
        return str(e)


def in_order(
    numbered: Iterator[tuple[int, TextAlignment | str]],
) -> Iterator[tuple[int, TextAlignment | str]]:
    """Yield results in the order of their numbers, each as soon as it and those before it are there."""
    ready: dict[int, TextAlignment | str] = {}
    following = 0
    for number, found in numbered:
        ready[number] = found
        while following in ready:
            yield following, ready.pop(following)
            following += 1


def note_failure(job: Job, reason: str, report: Report, *, is_only: bool) -> None:
    """Note a recording that cannot be aligned, and say so; the only one is `conclude`'s."""
    report.failed.append(reason if str(job.pair.path) in reason else f"{job.pair.path}: {reason}")
    if not is_only:
        logger.warning("not aligned: %s", report.failed[-1])


def note_alignment(job: Job, alignment: TextAlignment, config: ProgramConfig, report: Report, *, is_only: bool) -> None:
    """Note an alignment; say what is odd about it."""
    report.num_aligned += 1
    report.missing += alignment.spelling.missing
    transcript = alignment.transcript
    median = alignment.median_confidence
    stretch = weakest_stretch(transcript.words, max(median / 2, config.min_confidence))
    if is_only:
        logger.info("%s: %d words, confidence %.2f", job.pair.name, len(transcript.words), transcript.confidence)
        if stretch is not None:
            logger.info("weakest stretch: %s", stretch)
    if median < config.min_confidence:
        report.not_heard.append(job.pair.name)
        logger.warning(
            "%s: its text was not heard, the median confidence of a letter is %.3f: %s",
            job.pair.path, median, likely_cause(alignment),
        )  # fmt: skip


def conclude(report: Report, *, is_only: bool) -> int:
    """Say what became of all recordings; return the exit code.

    Raises:
        DataError: the only recording could not be aligned.
    """
    if report.missing:
        logger.info("characters that the dictionary lacks: %s", named_characters(report.missing))
    if is_only and report.failed:
        raise DataError(report.failed[0])
    # All ranks know the sums, and one says them.
    level = logging.WARNING if distributed.is_master() else logging.DEBUG
    if not is_only:
        logger.info("%d recordings aligned", report.num_aligned)
        if report.failed:
            logger.log(level, "%d recordings could not be aligned", len(report.failed))
        if report.not_heard:
            logger.log(level, "the texts of %d recordings were not heard", len(report.not_heard))
    return 1 if report.failed else NOT_HEARD if report.not_heard else 0
