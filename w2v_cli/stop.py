"""SIGINT and SIGTERM for programs that hear until they are told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class Stop:
    """Notes SIGINT and SIGTERM in a `with` statement, so that the last utterance is heard out; a second one kills.

    Args:
        told: called by the handler of the first one; it must not wait.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, told: Callable[[], object] | None = None) -> None:
        self.is_set = False
        self._told = told

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        if self._told is not None:
            self._told()
        for which in self.signals:
            signal.signal(which, signal.SIG_DFL)

    def __enter__(self) -> Stop:
        self._before = [signal.signal(number, self._note) for number in self.signals]
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in zip(self.signals, self._before, strict=True):
            signal.signal(number, before)
