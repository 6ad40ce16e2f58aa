"""Ends a process that a signal has asked to end, and that waits for something that does not come.

Python runs a signal's handler only between two of its own instructions. While the main thread is inside a collective
that waits for another rank, or inside a driver, it cannot answer; this thread can. It asks the main thread every second
whether it still runs Python. Only a signal starts this: a run that nobody has asked to end may wait for long.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from w2v.system import CHILD_ENDED, HARMLESS

LIMIT = 8.0  # seconds without an answer of the main thread: it ends within 10 s of the signal
PROBE = HARMLESS  # where the handler is gone, too
IDLE = 0.2  # of a core: below, the process computes nothing
PAUSE = 0.5

Leave = Callable[[str, int], Any]


class InterruptedWaitError(Exception):
    """A signal has ended the wait of a single process for its next batch."""


class Watchdog:
    """Watches the main thread once a signal has come.

    Args:
        is_alone: no other rank takes part in the decision: a process that is stuck leaves by itself.
        leave: called with a message and an exit code; must end the process.

    Attributes:
        asked: a signal has come, here or to another rank.
        stuck: the main thread has not answered for `LIMIT` seconds.
    """

    def __init__(self, leave: Leave, *, is_alone: bool) -> None:
        self.asked = self.stuck = False
        self._leave, self._is_alone = leave, is_alone
        self._answered = self._looked = time.monotonic()
        self._computed = 0.0
        self._busy = 0
        self._waiting_since: float | None = None
        self._former: Any = None
        self._reader, self._writer = socket.socketpair()
        self._is_over = False

    def begin(self) -> None:
        """Start to watch; from the main thread. Where no signal can be sent to a thread, nothing is watched."""
        if PROBE is None:
            self._close()
            return
        for end in (self._reader, self._writer):
            end.setblocking(end is self._reader)
        self._former = (
            signal.signal(PROBE, self._answer),
            signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False),
        )
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def end(self) -> None:
        """Put things back; from the main thread."""
        self._is_over = True
        if self._former is not None:
            signal.set_wakeup_fd(self._former[1])
            if PROBE is not None:
                signal.signal(PROBE, self._former[0])
            self._former = None
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Work that must not be cut short, such as the writing of a checkpoint."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._answered = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait of the main thread that it spends in Python, for data.

        Raises:
            InterruptedWaitError: `LIMIT` seconds after a signal there are still no data; of a single process only.
        """
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None
            self._answered = time.monotonic()

    def _answer(self, number: int, frame: Any) -> None:
        if self.stuck and self._is_alone and self._waiting_since is not None:
            self.stuck, self._waiting_since = False, None
            raise InterruptedWaitError
        self._answered = time.monotonic()

    def _watch(self) -> None:
        main = threading.main_thread().ident
        self._reader.settimeout(PAUSE)
        while not self._is_over and main is not None and PROBE is not None:
            with contextlib.suppress(OSError):
                if any(number not in (0, PROBE, CHILD_ENDED) for number in self._reader.recv(64)):
                    self.ask()
            if self.asked and not self._is_over:
                with contextlib.suppress(ProcessLookupError):
                    signal.pthread_kill(main, PROBE)
                time.sleep(PAUSE / 5)
                self.stuck = self._is_stuck()
                runs_python = self._waiting_since is not None and time.monotonic() - self._answered < LIMIT
                if self.stuck and self._is_alone and not runs_python:
                    self._leave(MESSAGE, 3)
        self._close()

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()

    def ask(self) -> None:
        """Note that a signal has come, here or to another rank."""
        if not self.asked:
            self._answered = self._looked = time.monotonic()
            self._computed = time.process_time()
            self.asked = True

    def _is_stuck(self) -> bool:
        now = time.monotonic()
        if self._busy:
            self._answered = now
        if self._waiting_since is not None:
            since = max(self._waiting_since, self._looked)
        else:
            since = self._answered
        if now - self._answered < LIMIT / 2:  # what was computed counts from the last answer on
            self._computed = time.process_time()
        if now - since < LIMIT or self._busy:
            return False
        return self._waiting_since is not None or self._is_idle(now)

    def _is_idle(self, now: float) -> bool:
        """Whether the process computes nothing; on a GPU this cannot be told, as drivers wait by asking for ever."""
        import torch

        cuda: Any = torch.cuda
        if cuda.is_available() and cuda.is_initialized():
            return True
        return time.process_time() - self._computed < IDLE * LIMIT / 2


MESSAGE = (
    "a signal asked this run to end, and it has been waiting ever since, for data or for another rank that does not "
    "come; the same command resumes from the last checkpoint"
)

current: Watchdog | None = None


@contextlib.contextmanager
def watched(leave: Leave, *, is_alone: bool) -> Iterator[Watchdog]:
    """Watch the main thread for as long as the block lasts; outside the main thread, nothing is watched."""
    global current
    dog = Watchdog(leave, is_alone=is_alone)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        dog.begin()
        current = dog
    try:
        yield dog
    finally:
        if is_main:
            current = None
            dog.end()
