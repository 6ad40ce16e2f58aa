"""A lock on a folder, so that two runs do not overwrite each other's checkpoints.

The kernel holds it for the process: it is gone when its owner is, however that ended.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from pathlib import Path

from w2v.errors import ConfigError
from w2v.system import CLOSE_ON_EXEC, fcntl

logger = logging.getLogger(__name__)

NAME = ".lock"
PATIENCE = 5.0  # seconds; the processes of a run that was just killed need a moment to notice
PAUSE = 0.1
TAKEN = (errno.EACCES, errno.EAGAIN)


class FolderLock:
    """A lock that one process can hold.

    A record lock (`lockf`), not `flock`: worker processes do not inherit it, so it does not outlive a run whose
    workers take a few seconds to notice that they are alone. Over NFS it holds between machines if the server runs a
    lock service; after a crash of the machine it may take the server's lease time (some 90 seconds) to come free.
    Where a file system or Windows knows no such locks, there is a warning and no protection.

    Args:
        folder: must exist when the lock is acquired.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, waiting a few seconds for it.

        Raises:
            ConfigError: another process holds it.
            OSError: the folder cannot be written to.
        """
        file = os.open(self._folder / NAME, os.O_RDWR | os.O_CREAT | CLOSE_ON_EXEC, 0o666)
        try:
            self._wait(file)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def release(self) -> None:
        """Give the lock back. The file stays: to remove it would let two others each lock a file of that name."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _wait(self, file: int) -> None:
        if fcntl is None:
            self._warn("this system has no record locks")
            return
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                if e.errno not in TAKEN:
                    self._warn(e)
                    return
                if time.monotonic() > deadline:
                    raise ConfigError(f"--save-dir {str(self._folder)!r} is in use by {_owner(file)}") from e
                time.sleep(PAUSE)
                continue
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
            return

    def _warn(self, why: object) -> None:
        logger.warning("--save-dir %s cannot be locked (%s); start no second run in it", self._folder, why)


def _owner(file: int) -> str:
    with contextlib.suppress(OSError, ValueError):
        pid, host = os.pread(file, 300, 0).decode("utf-8", "replace").split()
        return f"process {pid} on {host}; let it end, or give this run another folder"
    return "another run; let it end, or give this run another folder"
