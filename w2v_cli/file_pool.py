"""Processes that read files, for `w2v-manifest` and `w2v-segment`, which share their `--jobs`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from w2v.errors import DataError


@contextlib.contextmanager
def file_pool(jobs: int, what: str) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes within this context; what has not begun at its end is never done.

    Args:
        jobs: processes.
        what: the files they read, for messages.

    Raises:
        DataError: a process died.
    """
    # Ctrl-C ends this process, which ends the pool.
    with ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield pool
        except BrokenProcessPool as e:
            raise DataError(f"a process that reads {what} died; --jobs 1 shows at which file") from e
        finally:
            pool.shutdown(cancel_futures=True)
