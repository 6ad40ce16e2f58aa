"""What `w2v-infer` leaves behind: transcripts, files, scores.

Names and lines of the word and unit files are the original's: sclite's trn form, where the speaker is always called
`None`. What sclite itself takes is written beside them with `--trn` and `--ctm`.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from w2v.config import arg, check_range
from w2v.data.speakers import speakers_of, utterance_id
from w2v.errors import ConfigError, DataError
from w2v.inference.word_times import word_times
from w2v.rng import numpy_generator
from w2v.scoring import SCORERS, ErrorRateScorer, Scorer, ScorerConfig, build_scorer, score_by_group
from w2v.scoring.alignment import alignment_lines
from w2v.scoring.bootstrap import bootstrap_rates, interval
from w2v.types import Emissions, Hypothesis
from w2v_cli.emission_source import EmissionSource

logger = logging.getLogger("w2v-infer")

HYPOTHESES = ("hypo.word", "hypo.units")
REFERENCES = ("ref.word", "ref.units")
NBEST = "nbest"
TRN = ("hypo.trn", "ref.trn")
CTM = ("hypo.ctm", "ref.stm")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class OutputConfig(ScorerConfig):
    """What is written, and what is said about it."""

    results_path: str | None = arg(None, help="folder for the result files (default: print the transcripts)")
    trn: bool = arg(False, help="also write hypo-*.trn and ref-*.trn, whose ids name speaker and clip, for sclite")
    ctm: bool = arg(False, help="also write hypo-*.ctm: each word's time, length and confidence; and ref-*.stm")
    scoring: str = arg("wer", help="what is computed from transcripts and references: wer, cer, bleu, chrf or ter")
    print_alignment: bool = arg(False, help="print each reference above its hypothesis, errors marked")
    bootstrap: int = arg(0, help="print a 95 % interval of the error rate, from N drawings of sentences (1000, say)")
    per_speaker: bool = arg(False, help="print the score of each speaker")
    speaker_from: str = arg(
        "parent", help="who speaks: parent (folder of the clip), prefix:MARK (file name up to MARK), or FILE.tsv"
    )

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "bootstrap")
        scorer = SCORERS.get(self.scoring).cls
        if self.bootstrap and not issubclass(scorer, ErrorRateScorer):
            raise ConfigError(f"--bootstrap is for error rates (--scoring wer or cer), got --scoring {self.scoring}")
        if self.results_path is None and (self.trn or self.ctm):
            raise ConfigError(f"--{'trn' if self.trn else 'ctm'} needs --results-path, where the file goes")


@dataclass(frozen=True)
class Transcript:
    """What is written about one clip; ranks send it to the first one.

    Attributes:
        row: line of the clip in the manifest.
        num_samples: samples of the clip; 0: it could not be read.
        text: the best hypothesis.
        lines: kind of file -> lines.
        label: the scored hypothesis as `label_output` has it; empty where none is asked for.
    """

    row: int
    num_samples: int
    text: str
    lines: dict[str, list[str]]
    label: str = ""


class TranscriptWriter:
    """Turns hypotheses into lines.

    Args:
        source: the clips.
        config: which kinds of lines.
        with_nbest: whether all hypotheses are written: row, rank, score and text between tabs. The original never
            writes more than the first.

    Raises:
        ConfigError: the model does not tell when its frames are.
        DataError: the table of speakers lacks a clip.
    """

    def __init__(self, source: EmissionSource, config: OutputConfig, *, with_nbest: bool) -> None:
        self.source = source
        self.speakers: list[str] = []
        self.ids: list[str] = []
        self.kinds = [*HYPOTHESES, *((NBEST,) if with_nbest else ())]
        for kinds, is_wanted in ((TRN, config.trn), (CTM, config.ctm)):
            self.kinds += kinds[:1] if is_wanted else ()
        if source.references is not None:
            self.kinds += REFERENCES
            for kinds, is_wanted in ((TRN, config.trn), (CTM, config.ctm)):
                self.kinds += kinds[1:] if is_wanted else ()
        if config.ctm and not source.info.stride:
            raise ConfigError(f"--ctm: the model {source.info.model} does not tell when its frames are")
        if config.trn or config.ctm or config.per_speaker:
            manifest = source.manifest
            names = [manifest.title(row) for row in range(len(manifest))]
            self.speakers = speakers_of(names, config.speaker_from)
            self.ids = unique_ids(map(utterance_id, self.speakers, names))

    def transcripts(self, batch: Emissions, by_clip: list[list[Hypothesis]]) -> list[Transcript]:
        """Return what is written about the clips of a batch."""
        found = []
        for place, (row, hypotheses) in enumerate(zip(batch.rows, by_clip, strict=True)):
            lines = {kind: list(self._lines(kind, row, hypotheses, batch, place)) for kind in self.kinds}
            found.append(Transcript(row, batch.num_samples[place], " ".join(hypotheses[0].words), lines))
        return found

    def _lines(self, kind: str, row: int, hypotheses: list[Hypothesis], batch: Emissions, place: int) -> Iterator[str]:
        source, best = self.source, hypotheses[0]
        units, reference = source.reference(row) or ("", "")
        if kind == "hypo.word":
            yield f"{' '.join(best.words)} (None-{row})"
        elif kind == "hypo.units":
            yield f"{source.dictionary.string(best.tokens)} (None-{row})"
        elif kind == "ref.word":
            yield f"{reference} (None-{row})"
        elif kind == "ref.units":
            yield f"{units} (None-{row})"
        elif kind == "hypo.trn":
            yield f"{for_sclite(' '.join(best.words))} ({self._id(row)})"
        elif kind == "ref.trn":
            yield f"{for_sclite(reference)} ({self._id(row)})"
        elif kind == NBEST:
            for rank, hypothesis in enumerate(hypotheses, 1):
                yield f"{row}\t{rank}\t{hypothesis.score:.6f}\t{' '.join(hypothesis.words)}"
        elif kind == "ref.stm":
            seconds = batch.num_samples[place] / source.info.sample_rate
            # An unreadable clip has no length, which sclite refuses.
            speaker = for_sclite(self.speakers[row]).replace(" ", ".")
            yield f"{self._id(row)} 1 {speaker} 0.000 {max(seconds, 0.001):.3f} {for_sclite(reference)}".rstrip()
        elif kind == "hypo.ctm":
            for word in word_times(best, batch.clip(place), source.dictionary, source.info.post_process):
                start, end = source.info.seconds(word.start), source.info.seconds(word.end)
                yield f"{self._id(row)} 1 {start:.3f} {end - start:.3f} {for_sclite(word.word)} {word.confidence:.3f}"

    def _id(self, row: int) -> str:
        return self.ids[row]


class Results:
    """Takes transcripts and writes, or prints, and scores them; a context that closes its files.

    Args:
        source: the clips.
        config: where the files go, and what is scored.
        kinds: kinds of files, as `TranscriptWriter` has them.
        suffix: what follows the kind in each file name.
        prefix: what comes before it, where there are several shards.
        start: when the work began (`time.monotonic`); None: parts of it were done in other runs, so no speed is told.
        shows: whether transcripts are printed where they go to no file.

    Raises:
        ConfigError: a file cannot be made.
    """

    def __init__(
        self,
        source: EmissionSource,
        config: OutputConfig,
        kinds: list[str],
        *,
        suffix: str,
        prefix: str,
        start: float | None,
        shows: bool = True,
    ) -> None:
        self.source = source
        self.config = config
        self._shows = shows
        self.scorer: Scorer | None = None if source.references is None else build_scorer(config.scoring, config)
        self.rows: list[int] = []
        self.num_samples: list[int] = []
        self._start = start
        self._files: dict[str, TextIO] = {}
        if config.results_path is not None:
            self._open(Path(config.results_path), {kind: prefix + file_name(kind, suffix) for kind in kinds})

    def add(self, transcript: Transcript) -> None:
        """Write, or print, and score one clip.

        Raises:
            DataError: a file cannot be written.
        """
        self.rows.append(transcript.row)
        self.num_samples.append(transcript.num_samples)
        reference = self.source.reference(transcript.row)
        if self.scorer is not None and reference is not None:
            texts = (self.source.scored_text(text, self.config.scoring) for text in (reference[1], transcript.text))
            self.scorer.add(*texts)
        if not self._files and self._shows:
            print(f"{self.source.manifest.title(transcript.row)}\t{transcript.text}")
        try:
            for kind, file in self._files.items():
                file.writelines(f"{line}\n" for line in transcript.lines[kind])
        except OSError as e:
            raise DataError(f"cannot write the results: {e.strerror or e}") from e

    @property
    def num_unreadable(self) -> int:
        """Clips of which nothing could be read."""
        return self.num_samples.count(0)

    def report(self, subset: str, speakers: list[str], seed: int) -> None:
        """Print the score, the speed, and what else was asked for.

        Args:
            subset: name of the subset.
            speakers: who speaks in each clip of the manifest, where it is known.
            seed: of the bootstrap.
        """
        seconds = sum(self.num_samples) / self.source.info.sample_rate
        if self.num_unreadable:
            logger.error(
                "%d of %d clips are unreadable; their transcripts are empty (exit code 1)", self.num_unreadable,
                len(self.rows),
            )  # fmt: skip
        lines = [f"{subset}: {len(self.rows)} clips, {seconds:.1f} s of audio"]
        if self._start is not None:
            elapsed = max(time.monotonic() - self._start, 1e-9)
            lines[0] += f" in {elapsed:.1f} s ({seconds / elapsed:.1f} audio-seconds per second)"
        if self.scorer is not None:
            lines += self._scores(self.scorer, speakers, seed)
        print("\n".join(lines), file=sys.stdout if self._files else sys.stderr)

    def _scores(self, scorer: Scorer, speakers: list[str], seed: int) -> Iterator[str]:
        if self.config.print_alignment:
            for row, reference, hypothesis in zip(self.rows, scorer.references, scorer.hypotheses, strict=True):
                yield f"id: {self.source.manifest.title(row)}"
                yield from alignment_lines(reference.split(), hypothesis.split())
                yield ""
        if self.config.per_speaker:
            groups = [speakers[row] for row in self.rows]
            texts = (scorer.references, scorer.hypotheses)
            by_speaker = score_by_group(self.config.scoring, groups, *texts, self.config)
            width = max(map(len, by_speaker), default=0)
            yield from (f"{speaker.ljust(width)}  {alone.summary()}" for speaker, alone in by_speaker.items())
        yield scorer.summary()
        if self.config.bootstrap and isinstance(scorer, ErrorRateScorer):
            drawn = numpy_generator(seed, "bootstrap")
            rates = bootstrap_rates(scorer.errors, scorer.lengths, self.config.bootstrap, drawn)
            low, high = interval(rates, CONFIDENCE)
            yield (
                f"{CONFIDENCE:.0%} interval of the {scorer.name}: {low:.2f} to {high:.2f} % "
                f"({self.config.bootstrap} drawings of {len(self.rows)} sentences)"
            )

    def _open(self, folder: Path, names: dict[str, str]) -> None:
        make_results_folder(folder)
        try:
            for kind, name in names.items():
                self._files[kind] = open(folder / name, "w", encoding="utf-8")  # noqa: SIM115 - closed by the context
        except OSError as e:
            raise ConfigError(f"--results-path: cannot write to {folder}: {e.strerror or e}") from e

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for file in self._files.values():
                file.close()
        except OSError as e:  # the last lines reach the disk here
            raise DataError(f"cannot write the results: {e.strerror or e}") from e


def make_results_folder(folder: Path) -> None:
    """Make the folder of the result files.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"--results-path: cannot write to {folder}: {e.strerror or e}") from e


def for_sclite(text: str) -> str:
    """Return a text in which no mark has a meaning for sclite.

    Braces are alternatives there, parentheses words that may be missing, `;;` a remark, `<...>` in front of a reference
    its labels, and `@`, `*`, `;` and backslashes are dropped. Their wide forms (U+FF01 and following) mean nothing.
    """
    return " ".join(text.split()).translate(_WIDE)


_WIDE = {ord(mark): ord(mark) + 0xFEE0 for mark in "{}()<>@*;\\/"}


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Return ids of which no two are equal: one that came before gets a number."""
    seen: set[str] = set()
    found = []
    for number, name in enumerate(ids):
        name = name if name.lower() not in seen else f"{name}.{number}"
        seen.add(name.lower())
        found.append(name)
    return found


def file_name(kind: str, suffix: str) -> str:
    """Return `hypo.word-SUFFIX.txt`, or `hypo-SUFFIX.trn` for a kind that sclite knows by its ending."""
    if kind in TRN + CTM:
        name, ending = kind.split(".")
        return f"{name}-{suffix}.{ending}"
    return f"{kind}-{suffix}.txt"
