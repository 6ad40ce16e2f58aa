"""Order, batches, epochs, shards and crops, number for number as the original drew them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from w2v.data.batch_sampler import batch_by_size, length_order
from w2v.data.dataset import AudioDataset, BatchDataset, crop_starts
from w2v.data.iterator import EpochIterator
from w2v.data.manifest import make_manifest


class Silent(BatchDataset):
    """A data set whose batches are the requests themselves."""

    def load(self, indices: Any, seed: int) -> tuple[Any, None]:
        return (indices.tolist(), seed), None

    def record(self, report: Any) -> None:
        pass


@pytest.fixture(scope="module")
def recorded(golden):
    return torch.load(golden / "batching.pt", weights_only=True)


def make_dataset(recorded, row, root) -> AudioDataset:
    lengths = [int(length) for length in recorded["lengths"]]
    manifest = make_manifest(str(root), [f"{i}.wav" for i in range(len(lengths))], lengths)
    return AudioDataset(
        manifest,
        max_sample_size=row["max_sample_size"],
        min_sample_size=row["min_sample_size"],
        pad=row["pad"],
    )


def make_batches(dataset, row):
    order = length_order(dataset.sizes, row["np_seed"] if row["shuffle"] else None)
    plan = batch_by_size(
        order,
        dataset.lengths,
        max_tokens=row["max_tokens"],
        batch_size=row["batch_size"],
        multiple=row["required_batch_size_multiple"],
    )
    return order, plan


def test_kept_clips_order_and_batches(recorded, tmp_path):
    assert recorded["rows"]
    for row in recorded["rows"]:
        dataset = make_dataset(recorded, row, tmp_path)
        assert dataset.sizes.tolist() == row["kept_sizes"]
        assert len(dataset) == row["n_kept"]
        assert dataset.num_skipped == len(recorded["lengths"]) - row["n_kept"]
        assert dataset.lengths.tolist() == row["num_tokens_per_index"]
        order, plan = make_batches(dataset, row)
        assert order.tolist() == row["ordered_indices"]
        assert plan.num_skipped == 0
        assert [batch.tolist() for batch in plan.batches] == row["batches"]


@pytest.mark.parametrize("epoch", [1, 2])
def test_epochs_and_shards(recorded, tmp_path, epoch):
    rows = [row for row in recorded["rows"] if f"epoch{epoch}_batch_order" in row]
    assert rows
    for row in rows:
        _, plan = make_batches(make_dataset(recorded, row, tmp_path), row)
        for rank in range(2):
            iterator = EpochIterator(Silent(), plan.batches, seed=row["np_seed"], rank=rank, world_size=2)
            while iterator.epoch < epoch:
                iterator.advance_epoch()
            assert iterator.order().tolist() == row[f"epoch{epoch}_batch_order"]
            found = [indices if real else [] for [((indices, _), real)] in iterator.updates(1)]
            # The original's shards differ in length where the batches do not divide; empty ones fill them up.
            expected = row[f"epoch{epoch}_shard{rank}of2"]
            assert found == expected + [[]] * (len(found) - len(expected))
            assert len(found) - len(expected) <= 1


def test_crops(recorded):
    for row in recorded["crops"]:
        draw = np.random.RandomState(row["np_seed"])
        limit = row["max_sample_size"]
        extreme = max(row["lengths"]) if row["pad"] else min(row["lengths"])
        width = extreme if limit is None else min(extreme, limit)
        assert width == row["target_size"]
        starts = crop_starts(row["lengths"], width, lambda high, draw=draw: int(draw.randint(0, high)))
        assert starts == row["start_offsets"]
        if row["padding_per_row"] is not None:
            assert [max(0, width - length) for length in row["lengths"]] == row["padding_per_row"]
