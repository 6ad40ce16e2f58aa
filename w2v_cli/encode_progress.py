"""How far `w2v-featurize` and `w2v-tokenize` are: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator

from w2v.encode import Encoded

SECONDS_BETWEEN_LINES = 30.0

logger = logging.getLogger("progress")


def show_clips(clips: Iterator[Encoded], total: int, name: str, *, quiet: bool) -> Iterator[Encoded]:
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
