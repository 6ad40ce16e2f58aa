"""`--shuffle-shards`: every clip once, few shards at a time, the same batches for any ranks, workers, restarts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from clip_files import manifest_program, write_clips

from w2v.data.dataset import BatchDataset
from w2v.data.iterator import EpochIterator
from w2v.data.manifest import make_manifest, read_manifest
from w2v.data.shard_order import Blocks, ShardOrder, find_blocks, plan_by_shards
from w2v.errors import ConfigError
from w2v.shards.store import ShardStore


class Echo(BatchDataset):
    def __init__(self, looks_ahead=False):
        self._looks_ahead = looks_ahead
        self.told = []

    @property
    def looks_ahead(self):
        return self._looks_ahead

    def expect(self, indices):
        self.told.append(indices.tolist())

    def batch(self, indices, seed):
        return tuple(indices.tolist()), seed


def plan(sizes_of_shards, at_once, seed=3, clips_per_block=10):
    """Batches of shards with so many clips each."""
    shard = np.repeat(np.arange(len(sizes_of_shards)), sizes_of_shards)
    inside = np.concatenate([np.arange(size) for size in sizes_of_shards])
    block = np.unique(shard * 1000 + inside // clips_per_block, return_inverse=True)[1]
    sizes = np.random.default_rng(0).integers(500, 3000, len(shard))
    found, order = plan_by_shards(Blocks(shard, block), at_once, sizes, sizes, seed=seed, max_tokens=9000,
                                  batch_size=None, multiple=2, name_of=str)  # fmt: skip
    return found.batches, order, shard, block


@pytest.mark.parametrize("sizes", [[40, 7, 25, 31, 40], [50], [3, 60]])
@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_every_clip_once_from_few_shards_at_a_time(sizes, at_once):
    batches, order, shard, block = plan(sizes, at_once)
    assert sorted(np.concatenate(batches).tolist()) == list(range(sum(sizes)))
    assert all(len(set(block[batch])) == 1 for batch in batches)
    seen = set()
    for epoch in range(1, 5):
        drawn = order.draw(np.random.RandomState(epoch))
        assert sorted(drawn.tolist()) == list(range(len(batches)))
        of_batch = shard[[batch[0] for batch in batches]][drawn]
        last = {s: np.flatnonzero(of_batch == s)[-1] for s in set(of_batch.tolist())}
        first = {s: np.flatnonzero(of_batch == s)[0] for s in set(of_batch.tolist())}
        opened = [sum(first[s] <= place <= last[s] for s in first) for place in range(len(drawn))]
        assert max(opened) <= at_once
        for s in first:  # each shard from its beginning to its end, block by block
            blocks = block[[batches[number][0] for number in drawn if order.shard[number] == s]]
            assert (np.diff(blocks) >= 0).all()
        seen.add(tuple(drawn.tolist()))
    assert len(seen) == 4


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_process_has_shards_of_its_own(processes):
    order = ShardOrder(np.repeat(np.arange(8), 10), np.arange(80) // 5, 4)
    drawn = order.draw(np.random.RandomState(1))
    shards = [set(order.shard[drawn[process::processes]].tolist()) for process in range(processes)]
    assert sum(map(len, shards)) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_workers_and_restarts_change_nothing(workers):
    batches, order, _, _ = plan([30, 12, 33], 2)

    def iterator(rank=0, size=1, num_workers=0):
        return EpochIterator(Echo(looks_ahead=True), batches, seed=5, rank=rank, world_size=size, shard_order=order,
                             num_workers=num_workers)  # fmt: skip

    whole = iterator()
    expected = [[batch for group in whole.updates(1) for batch, counts in group if counts]]
    whole.advance_epoch()
    expected.append([batch for group in whole.updates(1) for batch, counts in group if counts])
    assert expected[0] != expected[1]
    state = None
    got = []
    for size, updates in ((3, 2), (1, 3), (2, 100)):  # another number of ranks after each restart
        ranks = [iterator(rank, size, workers if size == 2 else 0) for rank in range(size)]
        if state is not None:
            for rank in ranks:
                rank.load_state_dict(state)
        steps = [rank.updates(1) for rank in ranks]
        for _ in range(updates):
            groups = [next(step, None) for step in steps]
            if groups[0] is None:
                break
            got += [batch for group in groups for batch, counts in group if counts]
        state = ranks[0].state_dict()
        for rank in ranks:
            rank.close()
    assert got == expected[0]
    assert state["epoch"] == 2


def test_another_number_of_shards_at_a_time_begins_the_epoch_anew():
    batches, order, _, _ = plan([30, 12, 33], 2)
    first = EpochIterator(Echo(), batches, seed=5, shard_order=order)
    next(first.updates(1))
    other = EpochIterator(Echo(), batches, seed=5, shard_order=ShardOrder(order.shard, order.block, 3))
    other.load_state_dict(first.state_dict())
    assert (first.position, other.position) == (1, 0)


def test_what_comes_is_told_once_and_before_it_is_asked_for():
    data = Echo(looks_ahead=True)
    batches = [np.arange(n, n + 2) for n in range(0, 200, 2)]
    epochs = EpochIterator(data, batches, seed=1)
    for asked, group in enumerate(epochs.updates(1)):
        told = {clip for clips in data.told for clip in clips}
        assert set(group[0][0][0]) <= told
        assert len(told) >= min(2 * asked + 2, 200)
    assert sorted(clip for clips in data.told for clip in clips) == list(range(200))


def test_blocks_are_neighbours(tmp_path):
    manifest = write_clips(tmp_path / "files", 20)
    assert manifest_program(manifest, "--shards", tmp_path / "s", "--shard-size", "60K")[0] == 0
    clips = read_manifest(tmp_path / "s/train.tsv")
    rows = np.arange(20)[::-1].copy()
    found = find_blocks(clips, rows, largest=20_000)
    places = [clips.source_of(int(row)).place for row in rows]
    assert len(set(found.shard.tolist())) == len({place.shard for place in places}) > 1
    for block in set(found.block.tolist()):
        mine = sorted((p for p, b in zip(places, found.block) if b == block), key=lambda p: p.first)
        assert len({place.shard for place in mine}) == 1
        assert mine[-1].first + mine[-1].second - mine[0].first <= 20_000
    rows_of = make_manifest("/", [f"x.parquet:{n // 3}:{n % 3}/{n}.wav" for n in range(9)], [5] * 9)
    table = replace(rows_of, store=ShardStore("/"))
    assert find_blocks(table, np.arange(9)).block.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(ConfigError, match=r"--shuffle-shards: .* names a file"):
        find_blocks(read_manifest(manifest), np.arange(3))
