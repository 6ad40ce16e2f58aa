"""The order of clips that lie in shards: W shards at a time, each from its beginning to its end (`--shuffle-shards W`).

A server is quick where a shard is read in its order. So batches hold neighbours: a block is a stretch of a shard of
some megabytes, and batches are made within a block, by length. Epochs draw the order of the shards, and deal them to W
lanes; the batches of an epoch take turns among the lanes. Whatever number of ranks and workers reads, the order of the
batches follows from (seed, epoch, W) alone; where ranks x workers divides W, each process has lanes of its own, and
every shard is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from w2v.array_types import IntArray
from w2v.data.batch_sampler import BatchPlan, batch_by_size, length_order
from w2v.data.manifest import Manifest
from w2v.errors import ConfigError, DataError
from w2v.shards.member import PLACE_BYTES

BLOCK_BYTES = 16 << 20  # a third of an hour of FLAC at 16 kHz


@dataclass(frozen=True)
class Blocks:
    """Which stretch of which shard each clip lies in.

    Attributes:
        shard: (N,) number of the shard.
        block: (N,) number of the block, over all shards; clips of a block are neighbours.
    """

    shard: IntArray
    block: IntArray


@dataclass(frozen=True)
class ShardOrder:
    """Draws the order of batches.

    Attributes:
        shard: (B,) shard of each batch.
        block: (B,) block of each batch.
        at_once: shards that are read at a time.
    """

    shard: IntArray
    block: IntArray
    at_once: int

    def draw(self, rng: np.random.RandomState) -> IntArray:
        """Return the numbers of all batches in the order of one epoch."""
        count = int(self.shard.max()) + 1
        sizes = np.bincount(self.shard, minlength=count)
        lane = np.zeros(count, dtype=np.int64)
        begin = np.zeros(count, dtype=np.int64)  # batches of the lane before the shard
        ends = [0] * min(self.at_once, count)
        for shard in rng.permutation(count).tolist():
            lane[shard] = min(range(len(ends)), key=ends.__getitem__)  # the one that is free first
            begin[shard] = ends[lane[shard]]
            ends[lane[shard]] += int(sizes[shard])
        # Within a shard: its blocks in turn, the batches of each by chance.
        inside = np.lexsort((rng.permutation(len(self.shard)), self.block, self.shard))
        starts = np.cumsum(sizes) - sizes
        turn = np.empty(len(self.shard), dtype=np.int64)
        turn[inside] = np.arange(len(inside)) - starts[self.shard[inside]] + begin[self.shard[inside]]
        order: IntArray = np.lexsort((lane[self.shard], turn))
        return order


def find_blocks(manifest: Manifest, rows: IntArray, largest: int = BLOCK_BYTES) -> Blocks:
    """Return the blocks of clips; of a parquet file, each row group is one.

    Args:
        manifest: the clips.
        rows: their lines in the manifest.
        largest: bytes of a block.

    Raises:
        ConfigError: a clip lies in no shard.
    """
    shards: dict[bytes, int] = {}
    shard, place, end = (np.zeros(len(rows), dtype=np.int64) for _ in range(3))
    # Straight from the bytes: of thirty million clips, objects would take five minutes.
    names, starts, stops = (
        manifest.names.data,
        manifest.offsets[rows].tolist(),
        manifest.offsets[rows + 1].tolist(),
    )
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        match = PLACE_BYTES.match(names, start, stop)
        if match is None:
            where = manifest.line(int(rows[number]))
            raise ConfigError(f"--shuffle-shards: {where} names a file, and no clip inside of a shard")
        shard[number] = shards.setdefault(match[1], len(shards))
        place[number] = int(match[2])
        end[number] = place[number] if match[1].endswith(b".parquet") else place[number] + int(match[3])
    order = np.lexsort((place, shard))
    block = np.zeros(len(rows), dtype=np.int64)
    current, begin, before = -1, 0, -1
    by_row = {number for name, number in shards.items() if name.endswith(b".parquet")}
    for number in order.tolist():
        is_new = shard[number] != before or (
            place[number] != begin if before in by_row else end[number] - begin > largest
        )
        if is_new:
            current, begin, before = current + 1, int(place[number]), int(shard[number])
        block[number] = current
    return Blocks(shard, block)


def plan_by_shards(
    blocks: Blocks,
    at_once: int,
    sizes: IntArray,
    lengths: IntArray,
    *,
    seed: int,
    max_tokens: int | None,
    batch_size: int | None,
    multiple: int,
    name_of: Callable[[int], str],
) -> tuple[BatchPlan, ShardOrder]:
    """Cut the clips of each block into batches, by length.

    Args:
        blocks: of the clips.
        at_once: `--shuffle-shards`.
        sizes, lengths, seed, max_tokens, batch_size, multiple, name_of: as in `plan_batches`.

    Raises:
        DataError: no clip fits into a batch.
    """
    order = np.argsort(blocks.block, kind="stable")
    edges = np.flatnonzero(np.diff(blocks.block[order])) + 1
    batches: list[IntArray] = []
    skipped: list[IntArray] = []
    for clips in np.split(order, edges):
        chosen = clips[length_order(sizes[clips], seed)]
        plan = batch_by_size(chosen, lengths, max_tokens=max_tokens, batch_size=batch_size, multiple=multiple)
        batches += plan.batches
        skipped.append(plan.skipped)
    if not batches:
        first = int(order[0])
        raise DataError(f"{name_of(first)}: {lengths[first]} samples do not fit into --max-tokens {max_tokens}")
    first_clips = np.array([batch[0] for batch in batches])
    found = ShardOrder(blocks.shard[first_clips], blocks.block[first_clips], at_once)
    return BatchPlan(batches, np.concatenate(skipped)), found
