"""Log lines of the programs, and how far a program over clips is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

LINE_FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
SECONDS_BETWEEN_LINES = 30.0
Batch = TypeVar("Batch")


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


@dataclass(frozen=True)
class Work:
    """What a program over clips has before it.

    Attributes:
        name: what is being made.
        batches: how many batches.
        seconds: of audio, as the manifest has it; 0: not known, so the time left follows from the batches.
    """

    name: str
    batches: int
    seconds: float


def show_progress(
    batches: Iterable[Batch],
    size_of: Callable[[Batch], tuple[int, float]],
    work: Work,
    style: str | None = None,
    log_interval: int | None = None,
) -> Iterator[Batch]:
    """Pass batches through and show audio-seconds per second and the time left.

    Args:
        batches: what is passed through.
        size_of: clips of a batch, and seconds of audio.
        work: all of it.
        style: `--log-format`; None is a bar on a terminal and JSON elsewhere.
        log_interval: batches between two lines; None: half a minute between them, and one at the end.
    """
    terminal = sys.stderr.isatty()
    style = style or ("tqdm" if terminal else "json")
    bar = _bar(work) if style == "tqdm" and terminal else None
    start = said = time.monotonic()
    clips, seconds = 0, 0.0
    for done, batch in enumerate(batches, 1):
        yield batch
        new_clips, new_seconds = size_of(batch)
        clips, seconds, now = clips + new_clips, seconds + new_seconds, time.monotonic()
        if bar is not None:
            bar.set_postfix(clips=clips, refresh=False)
            bar.update(new_seconds if work.seconds else 1)
            continue
        due = done == work.batches or now - said > SECONDS_BETWEEN_LINES
        if style != "none" and (due if log_interval is None else done % log_interval == 0):
            said = now
            speed = seconds / max(now - start, 1e-9)
            share = min(seconds / work.seconds, 1.0) if work.seconds else done / work.batches
            left = (now - start) * (1 / max(share, 1e-9) - 1)
            _say({"batch": done, "batches": work.batches, "clips": clips}, work.name, speed, left, style)
    if bar is not None:
        bar.close()


def _bar(work: Work) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=work.seconds or work.batches, desc=work.name or None, unit=" audio-s" if work.seconds else " clip",
        unit_scale=True, dynamic_ncols=True, leave=False,
    )  # fmt: skip


def _say(counts: dict[str, int], name: str, speed: float, left: float, style: str) -> None:
    values: dict[str, Any] = {**({"name": name} if name else {}), **counts}
    values |= {"audio_s_per_s": round(speed, 1), "left_s": round(left)}
    line = ", ".join(f"{key}={value}" for key, value in values.items())
    logger.info(json.dumps(values) if style == "json" else line)
