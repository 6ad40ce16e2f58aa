"""Signals that ask a run to save and leave: SIGTERM, SIGUSR1 and Ctrl-C, answered between two updates."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupt:
    """Context in which a signal is noted instead of ending the program; a second Ctrl-C ends it at once.

    Outside the main thread, where python delivers no signals, it does nothing.

    Attributes:
        received: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            # The next one is the kernel's business: python would answer it only between two of its own instructions,
            # and this process may be waiting for a GPU or for another rank that will never come.
            signal.signal(number, signal.SIG_DFL)
        again = "; Ctrl-C again leaves at once, without saving" if number == signal.SIGINT else ""
        logger.warning("%s: saving after this update%s", self.received.name, again)
