"""A folder is locked against other processes, for as long as its owner lives and no longer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from w2v.checkpoint import folder_lock
from w2v.checkpoint.folder_lock import FolderLock
from w2v.checkpoint.manager import CheckpointManager
from w2v.config.sections import CheckpointConfig
from w2v.errors import ConfigError


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.2)


def fork(act: Callable[[int], Any]) -> tuple[int, int]:
    """Run `act` in a child, giving it the end of a pipe to say something; return its pid and what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act(writer)
        finally:
            os._exit(0)
    os.close(writer)
    said = int(os.read(reader, 20) or b"0")
    os.close(reader)
    return child, said


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[int]:
    """A process that holds the lock on `tmp_path`, and has a worker process."""

    def hold(writer: int) -> None:
        FolderLock(tmp_path).acquire()
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        os.write(writer, str(worker).encode())
        time.sleep(60)

    child, worker = fork(hold)
    yield child
    for process in (child, worker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def test_a_second_run_is_refused_and_told_by_whom(tmp_path: Path, owner: int) -> None:
    (tmp_path / "checkpoint_last.pt.tmp").write_bytes(b"half of the first run's next checkpoint")
    made = CheckpointManager(CheckpointConfig(save_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match=rf"is in use by process {owner} on {socket.gethostname()}; let it end"):
        made.prepare()
    assert (tmp_path / "checkpoint_last.pt.tmp").exists()
    CheckpointManager(CheckpointConfig(save_dir=str(tmp_path), no_save=True)).prepare()


def test_the_lock_of_a_killed_run_is_gone_though_its_workers_live_on(tmp_path: Path, owner: int) -> None:
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert (tmp_path / ".lock").read_text().split() == [str(os.getpid()), socket.gethostname()]
    lock.release()


def test_a_released_lock_can_be_taken(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()

    def try_it(writer: int) -> None:
        FolderLock(tmp_path).acquire()
        os.write(writer, b"1")

    assert fork(try_it)[1] == 1


def test_file_systems_without_locks_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    assert "cannot be locked" in caplog.text
