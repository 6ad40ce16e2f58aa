"""Which part of a corpus a process takes, where several share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Every `count`-th item of a list, from `index` on.

    Each process lists the items alike, in the same order, and takes its own part of them: none is lost, none is taken
    twice, and no process needs to ask another. Take parts *before* leaving out what an earlier run has finished;
    processes that start at different times see different things finished.

    A list by falling length gives every process about the same work.

    Attributes:
        index: number of this part, from 0.
        count: number of parts.
    """

    index: int = 0
    count: int = 1

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this part."""
        return items[self.index :: self.count]
