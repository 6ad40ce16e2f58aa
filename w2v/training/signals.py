"""Signals that ask a run to save and leave: SIGTERM, SIGUSR1, SIGHUP and Ctrl-C, answered between two updates.

A process that waits is ended as well: alone, it stops waiting for its next batch and saves; of several ranks, see
`distributed.watchdog`.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from w2v import distributed
from w2v.distributed.child import leave
from w2v.distributed.watchdog import Watchdog, watched
from w2v.system import ENDING_SIGNALS

logger = logging.getLogger(__name__)


class Interrupt:
    """Context in which a signal is noted instead of ending the program; a second Ctrl-C ends it at once.

    Signals that are ignored when it begins stay so: `nohup` means to outlive a closed terminal. Outside the main
    thread, where Python delivers no signals, it does nothing.

    Attributes:
        received: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._former: dict[int, Any] = {}
        self._dog: Watchdog | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._former = {number: signal.signal(number, self._note) for number in heeded}
        self._dog = self._stack.enter_context(watched(leave, is_alone=distributed.world_size() == 1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._dog = None
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def wait(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of a wait for data; a signal ends it with an `InterruptedWaitError` after some seconds."""
        return contextlib.nullcontext() if self._dog is None else self._dog.waiting()

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of work that a signal must not cut short, however long: the writing of a checkpoint."""
        return contextlib.nullcontext() if self._dog is None else self._dog.busy()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            # The next one is the kernel's business: Python would answer it only between two of its own instructions,
            # and this process may be waiting for a GPU or for another rank that will never come.
            signal.signal(number, signal.SIG_DFL)
        again = "; Ctrl-C again leaves at once, without saving" if number == signal.SIGINT else ""
        logger.warning("%s: saving after this update%s", self.received.name, again)
