"""Log lines of the programs, and how far a program over clips is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

from w2v.types import Emissions

logger = logging.getLogger(__name__)


LINE_FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


class _Lines(logging.StreamHandler[Any]):
    """Writes lines for as long as somebody reads them: a closed terminal or pipe does not end a run of days."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def set_up_logging(*, is_master: bool, stream: Any = None) -> None:
    """Send log lines to stdout in the original's form; processes other than the master only warn.

    Args:
        is_master: whether this process reports on the run.
        stream: another place for the lines.
    """
    handler = _Lines(stream or sys.stdout)
    handler.setFormatter(logging.Formatter(LINE_FORMAT, DATE_FORMAT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if is_master else logging.WARNING)


SECONDS_BETWEEN_LINES = 30.0
Clip = TypeVar("Clip")


def show_clips(clips: Iterator[Clip], total: int, name: str, *, quiet: bool) -> Iterator[Clip]:
    """Pass clips through and report on them.

    Args:
        clips: what is passed through.
        total: how many there are.
        name: what is being made.
        quiet: report nothing.
    """
    if quiet:
        yield from clips
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=name, unit="clip", dynamic_ncols=True, leave=False) as bar:
            for clip in clips:
                yield clip
                bar.update()
    else:
        last = time.monotonic()
        for done, clip in enumerate(clips, 1):
            yield clip
            if done == total or time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                logger.info("%s: %d of %d clips", name, done, total)


Readings = TypeVar("Readings")


def show_progress(
    batches: Iterator[tuple[Emissions, Readings]], total: int, sample_rate: int, style: str | None, log_interval: int
) -> Iterator[tuple[Emissions, Readings]]:
    """Pass decoded batches through, with a bar on a terminal and a line every `log_interval` batches elsewhere.

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
    for done, (batch, readings) in enumerate(batches, 1):
        yield batch, readings
        clips += len(batch.rows)
        samples += sum(batch.num_samples)
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
