"""From recordings to batches of windows: read by threads while the model computes, similar lengths together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from w2v.data.speech_segments import SpeechModel, SpeechRule
from w2v.errors import DataError, MissingPackageError
from w2v.inference.recording import Recording, Samples
from w2v.inference.windows import Window, WindowGrid, measured, speech_stretches

LARGEST_GROUP = 256  # recordings that are put in order of length
READ_AHEAD = 2  # batches


@dataclass(frozen=True)
class End:
    """A recording has been read.

    Attributes:
        num_samples: its length; None: it cannot be used.
        reason: why not, in one line.
    """

    num_samples: int | None
    reason: str = ""


class Item(NamedTuple):
    """A part of a recording.

    Attributes:
        number: of the recording, in the order given.
        name: of the recording.
        part: a window of it, or its end.
    """

    number: int
    name: str
    part: Window | End


@dataclass(frozen=True)
class RecordingReader:
    """How recordings become windows.

    Attributes:
        sample_rate: rate of the model, in Hz.
        normalize: give each recording zero mean and unit variance, as in training.
        normalize_epsilon: added to the variance.
        grid: how stretches are cut.
        new_detector: makes what tells speech from silence; None: the whole recording is one stretch.
        whole_below: recordings of no more samples are one stretch all the same, unless they hold no sound at all.
        rule: when speech begins and ends.
        max_tokens: largest batch: windows x longest window, in samples.
        num_threads: recordings read at once.
    """

    sample_rate: int
    normalize: bool
    normalize_epsilon: float
    grid: WindowGrid
    new_detector: Callable[[], SpeechModel] | None
    rule: SpeechRule
    max_tokens: int
    num_threads: int
    whole_below: int = 0

    def batches(self, recordings: Iterable[Recording]) -> Iterator[list[Item]]:
        """Yield windows that are computed together, and among them the ends of recordings.

        Groups of recordings are sorted by length; the first groups are small, so that the first text comes soon. All
        windows of a recording come in their order, with none of another one's between them.
        """
        with ThreadPoolExecutor(self.num_threads) as pool:
            yield from _ahead(self._batches(recordings, pool), READ_AHEAD)

    def _batches(self, recordings: Iterable[Recording], pool: ThreadPoolExecutor) -> Iterator[list[Item]]:
        numbered = enumerate(recordings)
        size = 1
        while group := list(islice(numbered, size)):
            size = min(2 * size, LARGEST_GROUP)
            yield from self._joined(self._items(group, pool))

    def _joined(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        batch: list[Item] = []
        count = widest = 0
        for item in items:
            if isinstance(item.part, Window):
                size = len(item.part.samples)
                widest = max(widest, size)
                if count and widest * (count + 1) > self.max_tokens:
                    yield batch
                    batch, count, widest = [], 0, size
                count += 1
            batch.append(item)
        if batch:
            yield batch

    def _items(self, group: Sequence[tuple[int, Recording]], pool: ThreadPoolExecutor) -> Iterator[Item]:
        """Yield the windows of a group, longest recording first; threads read the short ones ahead."""
        lengths = {number: recording.seconds for number, recording in group}
        # What does not say how long it is may be anything: first, and in blocks.
        longest = float("inf")
        ordered = sorted(group, key=lambda entry: -(lengths[entry[0]] or longest))
        depth = 2 * self.num_threads
        waiting: deque[tuple[int, Recording, Future[list[Window | End]] | None]] = deque()
        for entry in chain(ordered, [None] * depth):
            if entry is not None:
                number, recording = entry
                is_short = (lengths[number] or longest) * self.sample_rate <= (self.grid.size or longest)
                waiting.append((number, recording, pool.submit(self._all, recording) if is_short else None))
            if waiting and (entry is None or len(waiting) > depth):
                number, recording, future = waiting.popleft()
                for part in self.read(recording) if future is None else future.result():
                    yield Item(number, recording.name, part)

    def _all(self, recording: Recording) -> list[Window | End]:
        return list(self.read(recording))

    def read(self, recording: Recording) -> Iterator[Window | End]:
        """Yield the windows of a recording and then its end."""
        num_samples = 0

        def blocks() -> Iterator[Samples]:
            nonlocal num_samples
            num_samples = 0
            for block in recording.blocks(self.sample_rate):
                num_samples += len(block)
                yield block

        try:
            yield from self._windows(blocks)
        except (DataError, MissingPackageError) as e:
            yield End(None, str(e))
        else:
            yield End(num_samples)

    def _windows(self, blocks: Callable[[], Iterator[Samples]]) -> Iterator[Window]:
        mean, scale, source = 0.0, 1.0, blocks()
        if self.normalize:
            mean, scale, source = measured(blocks, self.grid.size or 1 << 40, self.normalize_epsilon)
        for offset, part in self._stretches(source):
            for window in self.grid.windows(part, offset):
                if self.normalize:
                    window = replace(window, samples=(window.samples - np.float32(mean)) * np.float32(scale))
                yield window

    def _stretches(self, blocks: Iterator[Samples]) -> Iterator[tuple[int, Iterable[Samples]]]:
        if self.new_detector is None:
            yield 0, blocks
            return
        head: list[Samples] = []
        if self.whole_below:
            for block in blocks:
                head.append(block)
                if sum(map(len, head)) > self.whole_below:
                    break
            else:
                # What surrounds speech is as in training; parting it there costs words.
                if any(np.ptp(block) for block in head if len(block)):
                    yield 0, head
                return
        for stretch, samples in speech_stretches(chain(head, blocks), self.new_detector(), self.rule):
            yield stretch.start, [samples]


def _ahead(items: Iterator[list[Item]], number: int) -> Iterator[list[Item]]:
    """Yield what an iterator gives, computed by a thread ahead of time."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(number))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item
