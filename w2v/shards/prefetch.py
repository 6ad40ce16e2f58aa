"""Ranges of bytes fetched ahead of need, many at once, within a bound on memory.

Clips that lie beside each other come in one range, so a shard that is read in its order arrives in few large pieces;
clips from all over come in one range each, several at a time, which hides the way to the server.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

Key = tuple[str, int, int]  # shard, first byte, byte behind the last one
RANGE_BYTES = 8 << 20
GAP_BYTES = 1 << 16  # fetched for nothing rather than to ask twice; headers and labels lie between clips
THREADS = 8


@dataclass(eq=False)
class _Range:
    """Neighbours of one shard.

    Attributes:
        members: clips that nobody has taken yet.
        content: bytes on their way; None: not asked for yet.
    """

    shard: str
    start: int
    end: int
    members: set[Key] = field(default_factory=set)
    content: Future[bytes | memoryview] | None = None

    @property
    def size(self) -> int:
        return self.end - self.start


class Prefetcher:
    """Fetches what is expected, and hands it out; safe to be used by several threads.

    Args:
        fetch: returns the bytes of (shard, start, end).
        budget: most bytes of ranges that are held or on their way. One range that is needed at once comes in any case.
    """

    def __init__(self, fetch: Callable[[str, int, int], bytes | memoryview], budget: int) -> None:
        self._fetch = fetch
        self._budget = budget
        self._range_bytes = max(min(RANGE_BYTES, budget // 4), 1)
        self._lock = threading.Lock()
        self._of: dict[Key, _Range] = {}
        self._waiting: OrderedDict[_Range, None] = OrderedDict()
        self._held: OrderedDict[_Range, None] = OrderedDict()
        self._num_held = 0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="w2v-shards")

    def expect(self, keys: Sequence[Key]) -> None:
        """Plan to fetch clips; they are asked for as the budget allows."""
        with self._lock:
            wanted = [key for key in dict.fromkeys(keys) if key not in self._of]
            found = coalesced(wanted, self._range_bytes)
            place = {key: number for number, key in enumerate(wanted)}
            # The range whose first clip is needed first comes first.
            for item in sorted(found, key=lambda item: min(place[key] for key in item.members)):
                self._of.update(dict.fromkeys(item.members, item))
                self._waiting[item] = None
            self._fill()

    def take(self, shard: str, start: int, end: int) -> bytes:
        """Return the bytes of a clip; a clip that was not expected is fetched now."""
        key = (shard, start, end)
        with self._lock:
            item = self._of.pop(key, None)
            if item is not None and item.content is None:
                self._start(item)
                self._drop_stale(item)
            content = None if item is None else item.content
        if item is None or content is None:
            return bytes(self._fetch(shard, start, end))
        try:
            return bytes(memoryview(content.result())[start - item.start : end - item.start])
        finally:
            with self._lock:
                item.members.discard(key)
                if not item.members:
                    self._release(item)
                    self._fill()

    def _fill(self) -> None:
        while self._waiting:
            item = next(iter(self._waiting))
            if self._num_held and self._num_held + item.size > self._budget:
                return
            self._start(item)

    def _start(self, item: _Range) -> None:
        self._waiting.pop(item, None)
        self._held[item] = None
        self._num_held += item.size
        item.content = self._pool.submit(self._fetch, item.shard, item.start, item.end)

    def _release(self, item: _Range) -> None:
        if item in self._held:
            del self._held[item]
            self._num_held -= item.size
            item.content = None

    def _drop_stale(self, needed: _Range) -> None:
        """Let go what was expected before `needed` and never taken, as after the end of an epoch, for room."""
        while self._num_held > self._budget and next(iter(self._held)) is not needed:
            stale = next(iter(self._held))
            for key in stale.members:
                self._of.pop(key, None)
            self._release(stale)


def coalesced(keys: Sequence[Key], largest: int, gap: int = GAP_BYTES) -> list[_Range]:
    """Return ranges that hold clips, neighbours together.

    Args:
        keys: the clips, in any order.
        largest: bytes of a range; a clip that is larger comes alone.
        gap: most bytes between two neighbours.
    """
    ranges: list[_Range] = []
    for key in sorted(keys):
        shard, start, end = key
        last = ranges[-1] if ranges else None
        if last is None or last.shard != shard or start > last.end + gap or end - last.start > largest:
            last = _Range(shard, start, end)
            ranges.append(last)
        last.end = max(last.end, end)
        last.members.add(key)
    return ranges
