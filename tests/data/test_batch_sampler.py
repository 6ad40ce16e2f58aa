"""Batches keep their budget and lose no clip, whatever the lengths; checked against a plain loop over clips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data.batch_sampler import batch_by_size, length_order, plan_batches
from w2v.errors import DataError

sizes = st.lists(st.integers(0, 300), max_size=120).map(lambda values: np.array(values, dtype=np.int64))


@settings(max_examples=300)
@given(
    sizes=sizes,
    crop=st.one_of(st.none(), st.integers(1, 300)),
    max_tokens=st.one_of(st.none(), st.integers(1, 2000)),
    batch_size=st.one_of(st.none(), st.integers(1, 20)),
    multiple=st.integers(1, 9),
    seed=st.one_of(st.none(), st.integers(0, 100)),
    shuffled=st.booleans(),
)
def test_budget_and_coverage(sizes, crop, max_tokens, batch_size, multiple, seed, shuffled):
    lengths = sizes if crop is None else np.minimum(sizes, crop)
    order = np.random.RandomState(0).permutation(len(sizes)) if shuffled else length_order(sizes, seed)
    plan = batch_by_size(order, lengths, max_tokens=max_tokens, batch_size=batch_size, multiple=multiple)
    for batch in plan.batches:
        assert max_tokens is None or len(batch) * lengths[batch].max() <= max_tokens
        assert batch_size is None or len(batch) <= batch_size
        assert len(batch) < multiple or len(batch) % multiple == 0 or batch is plan.batches[-1]
    kept = [index for batch in plan.batches for index in batch.tolist()]
    assert sorted(kept + plan.skipped.tolist()) == list(range(len(sizes)))
    assert plan.skipped.tolist() == [i for i in order if max_tokens is not None and lengths[i] > max_tokens]
    if not shuffled:
        assert [b.tolist() for b in plan.batches] == one_by_one(
            [i for i in order if i not in set(plan.skipped.tolist())], lengths, max_tokens, batch_size, multiple
        )


def one_by_one(order, lengths, max_tokens, batch_size, multiple):
    """Add clip by clip, closing the batch before it would overflow."""
    batches, batch = [], []
    for index in order:
        longest = max(lengths[i] for i in [*batch, index])
        over = max_tokens is not None and (len(batch) + 1) * longest > max_tokens
        if batch and (over or len(batch) == batch_size):
            cut = len(batch) - len(batch) % multiple if len(batch) >= multiple else len(batch)
            batches.append([int(i) for i in batch[:cut]])
            batch = batch[cut:]
        batch.append(index)
    return batches + ([[int(i) for i in batch]] if batch else [])


def test_too_long_clips():
    sizes = np.array([10, 500, 20, 700], dtype=np.int64)
    names = ["a", "b", "c", "d"]
    options = dict(seed=1, max_tokens=100, batch_size=None, name_of=names.__getitem__)
    plan = plan_batches(sizes, sizes, **options)
    assert sorted(plan.skipped.tolist()) == [1, 3]
    assert [b.tolist() for b in plan.batches] == [[2, 0]]
    with pytest.raises(DataError, match=r"^d: 700 samples do not fit into --max-tokens 100 \(nor do 1 others\)$"):
        plan_batches(sizes, sizes, **options, refuse_long=True)
    with pytest.raises(DataError, match="d: 700 samples do not fit"):
        plan_batches(sizes[[1, 3]], sizes[[1, 3]], **(options | dict(name_of=["b", "d"].__getitem__)))
    with pytest.raises(DataError, match="no clips"):
        plan_batches(sizes[:0], sizes[:0], **options)


def test_a_million_clips_take_seconds():
    sizes = np.random.default_rng(0).integers(16000, 320000, 1_000_000)
    plan = batch_by_size(length_order(sizes, 1), np.minimum(sizes, 250000), max_tokens=1400000)
    assert sum(map(len, plan.batches)) == len(sizes)
