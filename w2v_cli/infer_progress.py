"""How far `w2v-infer` is: a bar on a terminal, a line every now and then elsewhere."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

from w2v.types import Emissions

logger = logging.getLogger("w2v-infer")

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
