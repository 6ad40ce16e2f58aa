"""Samples on their way from the thread that records to the thread that transcribes, bounded in time.

A microphone cannot wait. Where transcribing is slower than speech, the oldest audio is dropped and counted, so that
neither memory nor delay grows.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from w2v.errors import ArgumentError

Samples = npt.NDArray[np.float32]

LONGEST = 30.0  # seconds


class Piece(NamedTuple):
    """What a queue gives.

    Attributes:
        dropped: number of samples that were dropped just before these.
        samples: (S,).
    """

    dropped: int
    samples: Samples


class AudioQueue:
    """A queue of blocks of samples for one writer and one reader.

    Args:
        sample_rate: in Hz.
        seconds: most that waits in it.
        waits: let the writer wait where it is full, as a file can, instead of dropping the oldest audio.
    """

    def __init__(self, sample_rate: int, seconds: float = LONGEST, *, waits: bool = False) -> None:
        if not seconds > 0:
            raise ArgumentError(f"a queue must hold more than 0 seconds, got {seconds}")
        self.sample_rate = sample_rate
        self.waits = waits
        self._most = max(round(seconds * sample_rate), 1)
        self._blocks: deque[Samples] = deque()
        self._size = self._dropped = 0  # samples that wait; dropped and not yet told
        self._is_closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()

    @property
    def seconds(self) -> float:
        """How much audio waits."""
        return self._size / self.sample_rate

    @property
    def is_done(self) -> bool:
        """Whether nothing waits and nothing will come."""
        with self._changed:
            return self._is_closed and not self._blocks and self._error is None

    def put(self, samples: Samples) -> bool:
        """Take the next block (S,); return False once the queue is closed, which ends the writer."""
        with self._changed:
            while self.waits and self._size and self._size + len(samples) > self._most and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return False
            if not len(samples):
                return True
            self._blocks.append(samples)
            self._size += len(samples)
            while self._size > self._most and not self.waits:
                self._drop()
            self._changed.notify_all()
            return True

    def get(self, timeout: float) -> Piece | None:
        """Return the oldest block; None: none came within `timeout` seconds, or the queue is done.

        Raises:
            Exception: what `close` was given, once all blocks are taken.
        """
        with self._changed:
            if not self._blocks and not self._is_closed:
                self._changed.wait(timeout)
            if self._blocks:
                samples = self._blocks.popleft()
                self._size -= len(samples)
                dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
                return Piece(dropped, samples)
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def close(self, error: Exception | None = None) -> None:
        """Say that nothing more will come, and why if something broke. What waits may still be taken."""
        with self._changed:
            if not self._is_closed:
                self._is_closed, self._error = True, error
            self._changed.notify_all()

    def drain(self) -> int:
        """Throw away what waits; return how many samples that were, with those that were dropped before."""
        with self._changed:
            lost, self._size, self._dropped = self._size + self._dropped, 0, 0
            self._blocks.clear()
            self._changed.notify_all()
        return lost

    def _drop(self) -> None:
        """Drop the oldest block, or of a last one that is too long its beginning."""
        samples = self._blocks.popleft()
        lost = len(samples)
        if not self._blocks:
            lost = self._size - self._most
            self._blocks.append(samples[lost:])
        self._size -= lost
        self._dropped += lost
