"""Properties of span masks. Recorded ones are in tests/parity/test_masks.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.functional.masking import SELECTIONS, MaskSpec, equal_rows, masked_positions, sample_mask
from w2v.rng import numpy_generator

specs = st.builds(
    MaskSpec,
    prob=st.floats(0.01, 1.0),
    length=st.integers(1, 12),
    selection=st.sampled_from(SELECTIONS),
    other=st.integers(0, 2),
    no_overlap=st.booleans(),
    min_space=st.integers(0, 3),
    min_masks=st.integers(0, 3),
)


@settings(max_examples=300)
@given(specs, st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(0, 5), st.integers(0, 2**32))
def test_no_mask_on_padding_and_equal_counts(spec: MaskSpec, sizes: list[int], more: int, seed: int) -> None:
    num_frames = max(max(sizes) + more, 1)
    mask = sample_mask(sizes, num_frames, spec, rng=numpy_generator(seed))
    assert mask.shape == (len(sizes), num_frames)
    for row, size in zip(mask, sizes, strict=True):
        assert not row[size:].any()
    counts = [int(row.sum()) for row, size in zip(mask, sizes, strict=True) if size > 0]
    assert len(set(counts)) <= 1


def test_zero_spans_mean_no_mask() -> None:
    # The original stops with an error in most of these draws.
    spec = MaskSpec(prob=0.1, length=10)
    counts = [sample_mask([40], 40, spec, rng=numpy_generator(seed)).sum() for seed in range(200)]
    assert min(counts) == 0
    assert max(counts) == 10


def test_a_clip_without_frames_does_not_unmask_the_others() -> None:
    spec = MaskSpec(prob=0.65, length=10, min_masks=2)
    mask = sample_mask([100, 0, 80], 100, spec, rng=numpy_generator(1))
    assert mask[0].sum() == mask[2].sum() > 10
    assert not mask[1].any()


def test_spans_keep_their_distance() -> None:
    spec = MaskSpec(prob=0.4, length=5, no_overlap=True, min_space=3)
    for seed in range(50):
        row = sample_mask([200], 200, spec, rng=numpy_generator(seed))[0]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        starts, ends = edges[::2], edges[1::2]
        assert ((ends - starts) == 5).all()
        assert (starts[1:] - ends[:-1] >= 3).all()
        assert len(starts) >= 10


def test_the_same_key_gives_the_same_mask() -> None:
    # The original's masks do not follow --seed.
    spec = MaskSpec(prob=0.65, length=10, min_masks=2)
    first, again, other = (sample_mask([150] * 3, 150, spec, rng=numpy_generator(seed, "mask")) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_expected_share() -> None:
    # Spans overlap: about 44 % of 150 frames, not 65 %.
    spec = MaskSpec(prob=0.65, length=10, min_masks=2)
    rng = numpy_generator(0)
    share = np.mean([sample_mask([150] * 4, 150, spec, rng=rng).mean() for _ in range(200)])
    assert share == pytest.approx(0.442, abs=0.01)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_mean_length(selection: str) -> None:
    spec = MaskSpec(prob=0.001, length=20, selection=selection, other=2.0, min_masks=1)
    rng = numpy_generator(selection)
    lengths = [sample_mask([4000], 4000, spec, rng=rng).sum() for _ in range(400)]
    expected = 21.0 if selection == "uniform" else 20.0
    assert np.mean(lengths) == pytest.approx(expected, abs=4 * max(np.std(lengths), 0.1) / 20)


def test_unknown_selection() -> None:
    spec = dataclasses.replace(MaskSpec(0.5, 10), selection="other")
    with pytest.raises(ValueError, match="must be one of static"):
        sample_mask([50], 50, spec, rng=numpy_generator(0))


def test_positions_of_a_mask() -> None:
    mask = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=bool)
    rows, positions = masked_positions(mask)
    assert rows.tolist() == [0, 2]
    assert positions.tolist() == [[1, 3], [0, 3]]
    assert masked_positions(np.zeros((2, 3), dtype=bool))[1].shape == (0, 0)
    with pytest.raises(ValueError, match="same number"):
        masked_positions(np.array([[1, 1], [1, 0]], dtype=bool))


def test_equal_rows() -> None:
    mask = equal_rows([5, 0, 3], 6, rng=numpy_generator(0))
    assert mask.sum(axis=1).tolist() == [3, 0, 3]
    assert not mask[0, 5]
    assert mask[2, :3].all()
