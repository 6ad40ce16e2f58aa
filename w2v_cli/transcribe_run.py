"""The parts of `w2v-transcribe` that need torch: the model on its device, decoding on all cores, how far it is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from w2v.config.decoding import DecoderConfig
from w2v.data.audio import audio_seconds
from w2v.data.shard import Shard
from w2v.inference.result import Transcript
from w2v.inference.transcribe_options import TranscribeConfig
from w2v.inference.transcriber import Decode, Transcriber
from w2v.types import Emissions
from w2v_cli.cpu import speed_on
from w2v_cli.decode_workers import decode as decode_on_cores
from w2v_cli.decode_workers import default_workers
from w2v_cli.open_model import open_transcriber
from w2v_cli.progress import set_up_logging
from w2v_cli.recordings import Job
from w2v_cli.sharding import own_rank, own_shard
from w2v_cli.transcribe_flags import PROGRAM, TranscribeFlags

MOST_HEADERS = 2000  # that are read for an estimate of the whole length


@contextmanager
def open_run(
    what: TranscribeFlags, how: TranscribeConfig, decoding: DecoderConfig
) -> Iterator[tuple[Transcriber, Decode, Shard]]:
    """Load the model; give what transcribes, what decodes, and the share of this process.

    Processes of torchrun and of Slurm take turns at the recordings. They need not meet: none waits for another one.

    Raises:
        W2vError: the model, the language model or a flag cannot be used.
    """
    set_up_logging(is_master=False, stream=sys.stderr)  # warnings alone
    rank = own_rank(what, cpu=what.cpu)
    shard = own_shard(what, rank)
    use_gpu = torch.cuda.is_available() and not what.cpu
    device = torch.device("cuda", rank.local_rank) if use_gpu else torch.device("cpu")
    with speed_on(device):
        transcriber = open_transcriber(what.model, what, decoding, device, how, what.num_workers)
        workers = default_workers(decoding) if what.decode_workers is None else what.decode_workers
        yield transcriber, lambda batches: decode_on_cores(batches, transcriber.decoder, workers), shard


class Progress:
    """How far it is: a bar on a terminal, JSON lines elsewhere, and a count at the end; all on stderr.

    Args:
        what: the command line.
        jobs: the recordings.
        num_kept: recordings that have their files already.
    """

    def __init__(self, what: TranscribeFlags, jobs: Sequence[Job], *, num_kept: int) -> None:
        self.what = what
        self.num_files, self.num_kept = len(jobs), num_kept
        self.num_done = self.num_failed = 0
        self._seconds = 0.0  # of recordings that are done
        self._heard = 0.0  # of the one that is being transcribed
        self._total = _total_seconds(jobs)
        self._start = self._last = time.monotonic()
        style = what.log_format or ("tqdm" if sys.stderr.isatty() else "json")
        self._style = "none" if what.quiet else style
        self._bar: Any = None
        if self._style == "tqdm":
            from tqdm import tqdm

            form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(total=self._total or None, bar_format=form, leave=False, dynamic_ncols=True)

    def watch(self, decode: Decode, sample_rate: int) -> Decode:
        """Return `decode` with its batches counted."""

        def watched(batches: Iterator[Emissions]) -> Iterator[tuple[Emissions, Any]]:
            for batch, readings in decode(batches):
                self._heard += sum(batch.num_samples) / sample_rate
                self._show()
                yield batch, readings

        return watched

    def done(self, job: Job, result: Any, failed: str) -> None:
        """Count a recording."""
        self.num_done += 1
        self.num_failed += bool(failed)
        if isinstance(result, Transcript):
            self._seconds += result.duration
            self._heard = max(self._heard - result.duration, 0.0)
        self._show()

    def values(self) -> dict[str, Any]:
        """Return what a line of progress says."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        seconds = self._seconds + self._heard
        left: float | None = None
        if self._total:
            left = elapsed * max(self._total - seconds, 0.0) / max(seconds, 1e-9) if seconds else None
        elif self.num_done:
            left = elapsed * (self.num_files - self.num_done) / self.num_done
        return {
            "files": self.num_done, "of": self.num_files, "kept": self.num_kept, "failed": self.num_failed,
            "audio_seconds": round(seconds, 1), "audio_s_per_s": round(seconds / elapsed, 1),
            "seconds_left": None if left is None else round(left, 1),
        }  # fmt: skip

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.n = min(self._seconds + self._heard, self._bar.total or float("inf"))
            speed = self.values()["audio_s_per_s"]
            self._bar.set_postfix_str(f"{self.num_done}/{self.num_files} files, {speed} audio-seconds/s")
        elif self._style != "none" and time.monotonic() - self._last >= self.what.log_interval:
            self._last = time.monotonic()
            self._print()

    def _print(self) -> None:
        values = self.values()
        line = ", ".join(f"{name}={value}" for name, value in values.items())
        print(json.dumps(values) if self._style == "json" else line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if error[0] is not None:
            return
        if self._style in ("json", "simple"):
            self._print()
        elif self._style == "tqdm":
            values = self.values()
            kept = f", {self.num_kept} kept" if self.num_kept else ""
            print(
                f"{self.num_done} files{kept}: {values['audio_seconds']} s of audio, "
                f"{values['audio_s_per_s']} audio-seconds per second",
                file=sys.stderr,
            )
        if self.num_failed:
            print(f"{PROGRAM}: {self.num_failed} of {self.num_done} files failed", file=sys.stderr)


def _total_seconds(jobs: Sequence[Job]) -> float:
    """Return the length of all recordings, of many by a sample of their headers; 0: one does not tell."""
    step = max(len(jobs) // MOST_HEADERS, 1)
    if not all(isinstance(job.path, str) for job in jobs):
        return 0.0  # a look at a clip inside of a shard reads all of it
    lengths = [audio_seconds(job.path) for job in jobs[::step]]
    told = [length for length in lengths if length]
    return sum(told) / len(told) * len(jobs) if len(told) > 0.5 * len(lengths) else 0.0
