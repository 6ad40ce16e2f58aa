"""What worker processes take from the machine: file descriptors, and the shared memory that holds their batches.

A container has 64 MB of `/dev/shm` unless it is told otherwise, and a shell 1024 file descriptors. Where that does not
suffice, workers send their batches through pipes, or there are fewer workers: slower, with the same batches.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from w2v.system import raise_open_files

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"
SPARE_FILES = 32  # for audio files, checkpoints, connections of ranks
FILES_PER_WORKER = 10  # pipes and semaphores of its queues, as this process sees them
FILES_PER_BATCH = 6  # one for each tensor that waits
PLENTY = 8 << 30  # bytes of shared memory beyond which nobody needs to count

through_pipes = False
"""In a worker process: whether batches leave it through a pipe. A worker that finds shared memory full sets it, too."""


@dataclass(frozen=True)
class WorkerPlan:
    """How batches are read.

    Attributes:
        num_workers: processes that read.
        through_pipes: whether their batches are sent through pipes, and not left in shared memory.
    """

    num_workers: int
    through_pipes: bool = False


def plan_workers(num_workers: int, prefetch: int, batch_bytes: int) -> WorkerPlan:
    """Return how many workers this machine can have, and how they send their batches; log what is less than asked for.

    Args:
        num_workers: `--num-workers`.
        prefetch: batches that each of them prepares ahead.
        batch_bytes: size of the largest batch; 0: unknown, or small.
    """
    if num_workers == 0:
        return WorkerPlan(0)
    free = _free_shared_memory()
    need = num_workers * (prefetch + 1) * batch_bytes
    if free is not None and free < need:
        _warn_once(
            "%s has %.3g MB free, and %d workers need up to %.3g MB for batches, so these go through pipes, which is "
            "slower; make it larger (docker run --shm-size 8g), lower --max-tokens, --batch-size or "
            "--data-buffer-size, or give --num-workers 0", SHARED_MEMORY, free / 1e6, num_workers, need / 1e6,
        )  # fmt: skip
        return WorkerPlan(_fitting_workers(num_workers), through_pipes=True)
    files = _open_files() + SPARE_FILES + num_workers * (FILES_PER_WORKER + FILES_PER_BATCH * (prefetch + 1))
    limit = raise_open_files(files)
    if limit >= files:
        return WorkerPlan(num_workers)
    fewer = _fitting_workers(num_workers)
    _warn_once(
        "--num-workers %d may need %d file descriptors, and ulimit -n allows %d: batches go through pipes%s; raise it "
        "(ulimit -n %d)", num_workers, files, limit, f", from {fewer} workers" if fewer < num_workers else "", files,
    )  # fmt: skip
    return WorkerPlan(fewer, through_pipes=True)


_said: set[str] = set()


def _warn_once(text: str, *values: object) -> None:
    """Warn of a limit at the first subset that meets it, and not at every validation."""
    if text not in _said:
        _said.add(text)
        logger.warning(text, *values)


def _fitting_workers(num_workers: int) -> int:
    files = _open_files() + SPARE_FILES
    room = (raise_open_files(files + num_workers * FILES_PER_WORKER) - files) // FILES_PER_WORKER
    return max(0, min(num_workers, room))


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return SPARE_FILES


def _free_shared_memory() -> int | None:
    """Return the free bytes of shared memory; None where there is plenty, or it is no file system."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):  # Windows has no such call
        return None
    free = found.f_bavail * found.f_frsize
    return free if free < PLENTY else None
