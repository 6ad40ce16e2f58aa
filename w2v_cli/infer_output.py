"""What `w2v-infer` shows and leaves behind: progress, result files, transcripts, the score.

File names and lines are the original's: sclite's trn form, where the speaker is always called `None`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from w2v.data.dataset import AudioDataset
from w2v.data.dictionary import Dictionary
from w2v.data.post_process import post_process
from w2v.errors import ConfigError, DataError
from w2v.scoring import Scorer, build_scorer
from w2v.types import AudioBatch, Hypothesis

logger = logging.getLogger("w2v-infer")

HYPOTHESES = ("hypo.word", "hypo.units")
REFERENCES = ("ref.word", "ref.units")
NBEST = "nbest"


class Results:
    """Takes transcripts, batch by batch; a context that closes its files.

    Args:
        dataset: the clips, with their labels if there are some.
        dictionary: the labels.
        symbol: `--post-process`.
        scoring: name of the scorer.
        folder: where the files go, made if missing; None prints `path TAB transcript` lines instead.
        suffix: what follows the kind in each file name.
        prefix: what comes before it, where there are several shards.
        with_nbest: whether to write one more file with all readings: row, rank, score and text between tabs.
            The original never writes more than the first.

    Raises:
        ConfigError: a file cannot be made.
    """

    def __init__(
        self,
        dataset: AudioDataset,
        dictionary: Dictionary,
        symbol: str | None,
        *,
        scoring: str,
        folder: str | None,
        suffix: str,
        prefix: str,
        with_nbest: bool,
    ) -> None:
        self.dataset = dataset
        self.dictionary = dictionary
        self.symbol = symbol
        self.scorer: Scorer | None = None if dataset.labels is None else build_scorer(scoring)
        self.num_clips = self.num_unreadable = self.num_samples = 0
        self._start = time.monotonic()
        self._files: dict[str, TextIO] = {}
        if folder is not None:
            kinds = HYPOTHESES + (REFERENCES if self.scorer else ()) + ((NBEST,) if with_nbest else ())
            self._open(Path(folder), [(kind, f"{prefix}{kind}-{suffix}.txt") for kind in kinds])

    def add(self, batch: AudioBatch, readings: list[list[Hypothesis]]) -> None:
        """Write, or print, and score the clips of a batch.

        Raises:
            DataError: a file cannot be written.
        """
        self.num_clips += batch.num_items
        self.num_samples += int(batch.lengths.sum())
        self.num_unreadable += int((batch.lengths == 0).sum())
        try:
            for index, hypotheses in zip(batch.indices.tolist(), readings, strict=True):
                self._add_clip(index, hypotheses)
        except OSError as e:
            raise DataError(f"cannot write the results: {e.strerror or e}") from e

    def _add_clip(self, index: int, hypotheses: list[Hypothesis]) -> None:
        row = int(self.dataset.rows[index])
        best = hypotheses[0]
        text = " ".join(best.words)
        if self._files:
            self._write("hypo.word", f"{text} (None-{row})")
            self._write("hypo.units", f"{self.dictionary.string(best.tokens)} (None-{row})")
        else:
            print(f"{self.dataset.name(index)}\t{text}")
        if NBEST in self._files:
            for rank, hypothesis in enumerate(hypotheses, 1):
                self._write(NBEST, f"{row}\t{rank}\t{hypothesis.score:.6f}\t{' '.join(hypothesis.words)}")
        if self.scorer is not None and self.dataset.labels is not None:
            units = self.dictionary.string(self.dataset.labels[index].tolist())
            reference = post_process(units, self.symbol)
            self.scorer.add(reference, text)
            if self._files:
                self._write("ref.word", f"{reference} (None-{row})")
                self._write("ref.units", f"{units} (None-{row})")

    def report(self, subset: str) -> None:
        """Print the score and the speed."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        seconds = self.num_samples / self.dataset.sample_rate
        out = sys.stdout if self._files else sys.stderr
        if self.num_unreadable:
            logger.warning(
                "%d of %d clips are unreadable; their transcripts are empty", self.num_unreadable, self.num_clips
            )
        print(
            f"{subset}: {self.num_clips} clips, {seconds:.1f} s of audio in {elapsed:.1f} s "
            f"({seconds / elapsed:.1f} audio-seconds per second)",
            file=out,
        )
        if self.scorer is not None:
            print(self.scorer.summary(), file=out)

    def _open(self, folder: Path, names: list[tuple[str, str]]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for kind, name in names:
                self._files[kind] = open(folder / name, "w", encoding="utf-8")  # noqa: SIM115 - closed by the context
        except OSError as e:
            raise ConfigError(f"--results-path: cannot write to {folder}: {e.strerror or e}") from e

    def _write(self, kind: str, line: str) -> None:
        self._files[kind].write(line + "\n")

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


def show_progress(
    batches: Iterator[AudioBatch], total: int, sample_rate: int, style: str | None, log_interval: int
) -> Iterator[AudioBatch]:
    """Pass batches through, with a bar on a terminal and a line every `log_interval` batches elsewhere.

    Args:
        batches: what is passed through.
        total: how many there are.
        sample_rate: samples per second.
        style: `--log-format`; None is a bar on a terminal and JSON elsewhere.
        log_interval: batches between two lines.
    """
    terminal = sys.stderr.isatty()
    style = style or ("tqdm" if terminal else "json")
    bar: Any = None
    if style == "tqdm" and terminal:
        from tqdm import tqdm

        bar = tqdm(total=total, unit="batch", dynamic_ncols=True, leave=False)
    start, samples, clips = time.monotonic(), 0, 0
    for done, batch in enumerate(batches, 1):
        yield batch
        clips += batch.num_items
        samples += int(batch.lengths.sum())
        speed = samples / sample_rate / max(time.monotonic() - start, 1e-9)
        if bar is not None:
            bar.set_postfix(audio=f"{speed:.3g}s/s", refresh=False)
            bar.update()
        elif style != "none" and done % log_interval == 0:
            values = {"batch": done, "batches": total, "clips": clips, "audio_s_per_s": round(speed, 1)}
            line = ", ".join(f"{name}={value}" for name, value in values.items())
            logger.info(json.dumps(values) if style == "json" else line)
    if bar is not None:
        bar.close()
