"""From the frames of a recording to the parts that are decoded one by one.

A recording of hours is decoded in parts of half a minute or so: its log-probabilities would fill the memory otherwise,
and nobody would see a word before the end. The cuts lie in pauses between words, so that the best path finds what it
finds in the whole; a language model begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.float32]
Gaps = Callable[[Frames], list[tuple[int, int]]]
"""(T, V) log-probabilities -> the pauses between words: frame after a word, first frame of the next one."""


@dataclass(frozen=True)
class Unit:
    """Frames that are decoded together.

    Attributes:
        offset: sample of the recording at which its stretch begins.
        first: number of its first frame in the stretch.
        log_probs: (T, V).
    """

    offset: int
    first: int
    log_probs: Frames


class UnitCutter:
    """Collects the frames of a stretch and cuts them in pauses.

    Args:
        gaps: finds the pauses.
        offset: sample of the recording at which the stretch begins.
        shortest: frames of a unit, unless the stretch ends.
        longest: frames of a unit, unless a word is longer.
        pause: frames of a pause that is long enough for a cut before `longest`.
    """

    def __init__(self, gaps: Gaps, offset: int, shortest: int, longest: int, pause: int) -> None:
        self._gaps = gaps
        self._offset = offset
        self._shortest, self._longest, self._pause = shortest, longest, pause
        self._held: Frames | None = None
        self._first = 0

    def push(self, frames: Frames, *, is_last: bool) -> list[Unit]:
        """Take the next frames (T, V); return the units that are complete."""
        held = frames if self._held is None else np.concatenate([self._held, frames])
        units = []
        while not is_last and len(held) >= self._shortest:
            cut = self._cut(held)
            if cut is None:
                break
            units.append(Unit(self._offset, self._first, held[:cut]))
            self._first += cut
            held = held[cut:].copy()
        if is_last:
            units.append(Unit(self._offset, self._first, held))
            held = held[:0]
        self._held = held
        return units

    def _cut(self, held: Frames) -> int | None:
        """Return the frame at which to cut; None: not yet."""
        gaps = [(end, start) for end, start in self._gaps(held) if (end + start) // 2 >= self._shortest // 2]
        wide = [(end, start) for end, start in gaps if start - end >= self._pause]
        if not wide and len(held) < self._longest:
            return None
        if not gaps:
            return len(held)
        end, start = wide[-1] if wide else max(gaps, key=lambda gap: int(gap[1] - gap[0]))
        return (end + start) // 2
