"""Where in a recording there is speech: from the probability of each window to segments, as the sound comes in.

The rules are silero-vad's (`get_speech_timestamps` and `VADIterator` of version 6.2), with equal results. The
probabilities come from `silero` or from `level`; nothing depends on the sizes of the blocks in which they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float32]


class SpeechModel(Protocol):
    """What tells speech from other sound, window by window.

    Attributes:
        window: samples of a window.
        sample_rate: that it needs, in Hz.
    """

    window: int
    sample_rate: int

    def push(self, samples: Samples) -> Probabilities:
        """Take (S,) samples and return the probabilities of the windows that are complete."""
        ...

    def finish(self) -> Probabilities:
        """Return the probability of the last window, filled up with zeros, if one has begun."""
        ...


class Stretch(NamedTuple):
    """A piece of a recording: first sample, and the sample after the last one."""

    start: int
    end: int


@dataclass(frozen=True)
class SpeechRule:
    """How probabilities become segments.

    Attributes:
        threshold: speech begins at this probability. It ends 0.15 below.
        min_silence: seconds without speech that end a segment.
        min_speech: seconds that a segment must exceed.
        pad: seconds by which segments are widened at both ends; neighbours share what lies between them.
        max_speech: seconds after which a segment is cut, at its longest pause where there is one.
    """

    threshold: float = 0.5
    min_silence: float = 0.1
    min_speech: float = 0.25
    pad: float = 0.03
    max_speech: float = math.inf

    @property
    def low(self) -> float:
        """Speech ends below this probability."""
        return max(self.threshold - 0.15, 0.01)


SHORTEST_CUT = 0.098  # seconds of a pause at which a segment that is too long may be cut


class SpeechSegmenter:
    """Turns probabilities into segments, which come out as soon as nothing can change them any more.

    Args:
        rule: when speech begins and ends.
        window: samples of the window that a probability stands for.
        sample_rate: in Hz.
    """

    def __init__(self, rule: SpeechRule, window: int, sample_rate: int) -> None:
        self.rule = rule
        self.window = window
        self._pad = sample_rate * rule.pad
        self._min_speech = sample_rate * rule.min_speech
        self._min_silence = sample_rate * rule.min_silence
        self._max_speech = sample_rate * rule.max_speech - window - 2 * self._pad
        self._min_cut = sample_rate * SHORTEST_CUT
        self._now = 0  # first sample of the window to come
        self._start: int | None = None
        self._quiet_since: int | None = None
        self._pauses: list[Stretch] = []
        self._waiting: Stretch | None = None  # found, but not widened at its end

    @property
    def earliest(self) -> int:
        """No segment to come begins before this sample: all before it may be forgotten."""
        if self._waiting is not None:
            return self._waiting.start
        return max(0, math.floor((self._now if self._start is None else self._start) - self._pad))

    def push(self, probabilities: Iterable[float]) -> Iterator[Stretch]:
        """Take the probabilities of the next windows; yield the segments that are complete, widened."""
        for probability in probabilities:
            found = self._step(float(probability))
            self._now += self.window
            if found is not None:
                yield from self._widened(found)
            elif self._start is None and self._waiting and self._now - self._waiting.end >= 2 * self._pad:
                # The next segment begins after this window: its padding does not reach the one that waits.
                yield from self._release(None)

    def finish(self, num_samples: int) -> Iterator[Stretch]:
        """Yield the segments left at the end of a recording of `num_samples` samples."""
        if self._start is not None and num_samples - self._start > self._min_speech:
            yield from self._widened(Stretch(self._start, num_samples))
        self._start = None
        yield from self._release(num_samples)

    def _step(self, probability: float) -> Stretch | None:
        """Take one window; return the segment that it ends."""
        now, is_speech = self._now, probability >= self.rule.threshold
        if is_speech and self._quiet_since is not None:
            if now - self._quiet_since > self._min_cut:
                self._pauses.append(Stretch(self._quiet_since, now))
            self._quiet_since = None
        if self._start is None:
            if is_speech:
                self._start = now
            return None
        if now - self._start > self._max_speech:
            return self._cut(now, probability)
        return self._quiet(now) if probability < self.rule.low else None

    def _cut(self, now: int, probability: float) -> Stretch:
        """End a segment that is too long: at its longest pause, after which the next one begins, else here."""
        start, self._quiet_since = self._start or 0, None
        pause = max(self._pauses, key=lambda stretch: stretch.end - stretch.start, default=None)
        self._pauses = []
        if pause is None:
            self._start = None
            return Stretch(start, now)
        self._start = pause.end
        # silero-vad looks at this window once more: it may begin a pause.
        if probability < self.rule.low:
            self._quiet_since = now
        return Stretch(start, pause.start)

    def _quiet(self, now: int) -> Stretch | None:
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < self._min_silence:
            return None
        found = Stretch(self._start or 0, self._quiet_since)
        self._start, self._quiet_since, self._pauses = None, None, []
        return found if found.end - found.start > self._min_speech else None

    def _widened(self, found: Stretch) -> Iterator[Stretch]:
        """Widen a segment at its beginning, which may yield the one before it, and let it wait for the next one."""
        before = self._waiting
        if before is None:
            start = math.floor(max(0, found.start - self._pad))
        else:
            gap = found.start - before.end
            # Half of what lies between them, if that is less.
            start = found.start - gap // 2 if gap < 2 * self._pad else int(max(0, found.start - self._pad))
            end = before.end + (gap // 2 if gap < 2 * self._pad else int(self._pad))
            yield Stretch(before.start, end)
        self._waiting = Stretch(start, found.end)

    def _release(self, num_samples: int | None) -> Iterator[Stretch]:
        if self._waiting is not None:
            end = self._waiting.end + self._pad
            yield Stretch(self._waiting.start, int(end if num_samples is None else min(num_samples, end)))
            self._waiting = None


class SpeechEvents:
    """Turns probabilities into beginnings and ends of speech at once, for programs that listen.

    Nothing is taken back, so that no minimal length is asked of speech, and the end is known `min_silence` late.

    Args:
        rule: `min_speech` and `max_speech` are not used.
        window: samples of the window that a probability stands for.
        sample_rate: in Hz.

    Attributes:
        is_speech: whether speech has begun and not ended.
        quiet_since: the sample since which there is no speech although it has not ended; None: there is speech.
    """

    def __init__(self, rule: SpeechRule, window: int, sample_rate: int) -> None:
        self.rule = rule
        self.window = window
        self.is_speech = False
        self._pad = sample_rate * rule.pad
        self._min_silence = sample_rate * rule.min_silence
        self.quiet_since: int | None = None
        self._now = 0

    def push(self, probability: float) -> tuple[str, int] | None:
        """Take the probability of the next window.

        Returns:
            "start" or "end" and the sample where speech begins or ends, `pad` outside it; None: nothing has changed.
        """
        now, self._now = self._now, self._now + self.window
        if probability >= self.rule.threshold:
            self.quiet_since = None
            if not self.is_speech:
                self.is_speech = True
                return "start", int(max(0, now - self._pad))
        elif self.is_speech and probability < self.rule.threshold - 0.15:
            if self.quiet_since is None:
                self.quiet_since = now
            if now - self.quiet_since >= self._min_silence:
                end = int(self.quiet_since + self._pad)
                self.is_speech, self.quiet_since = False, None
                return "end", end
        return None


def speech_segments(samples: Samples, model: SpeechModel, rule: SpeechRule | None = None) -> list[Stretch]:
    """Return the segments of speech of a whole recording (S,) at the model's rate.

    The model must be a fresh one: it remembers what it has heard.
    """
    segmenter = SpeechSegmenter(rule or SpeechRule(), model.window, model.sample_rate)
    found = [*segmenter.push(model.push(samples)), *segmenter.push(model.finish())]
    return [*found, *segmenter.finish(len(samples))]
