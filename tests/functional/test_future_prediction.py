"""Oracles: brute force over clips, frames and steps; frequencies of draws."""

from __future__ import annotations

import pytest
import torch

from w2v.functional.future_prediction import future_logits, prediction_rows, sample_future_negatives


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("frames", "offset", "steps"), [([7, 7], 2, 3), ([9, 4, 2], 3, 5), ([3], 3, 2), ([1, 5], 1, 9)]
)
def test_prediction_rows_against_brute_force(frames: list[int], offset: int, steps: int) -> None:
    width = max(frames)
    rows = prediction_rows(torch.tensor(frames), width, offset, steps)
    shifted = width - offset
    expected = [
        (clip * shifted + target - offset) * steps + step
        for clip, true_frames in enumerate(frames)
        for target in range(offset, true_frames)
        for step in range(steps)
        if target - offset - step >= 0
    ]
    assert rows.tolist() == expected


def test_future_logits_against_single_products() -> None:
    projections = torch.randn(2, 5, 3, 4, generator=generator())
    candidates = torch.randn(2, 5, 6, 4, generator=generator(1))
    rows = torch.tensor([0, 7, 29, 16])
    expected = [candidates.flatten(0, 1)[row // 3] @ projections.flatten(0, 2)[row] for row in rows.tolist()]
    torch.testing.assert_close(future_logits(projections, candidates, rows), torch.stack(expected))


@pytest.mark.parametrize("distance", [None, 4, 1])
def test_negatives_stay_in_their_clip_and_differ_from_the_positive(distance: int | None) -> None:
    frames = torch.tensor([9, 5, 12])
    negatives = sample_future_negatives(frames, 12, 40, 0, distance, generator=generator())
    assert negatives.shape == (3, 12, 40)
    for clip, count in enumerate(frames.tolist()):
        limit = count if distance is None else min(count, distance)
        for frame in range(1, count):
            drawn = negatives[clip, frame] - clip * 12
            assert drawn.min() >= 0
            assert drawn.max() < limit
            assert (drawn != frame).all()


def test_negatives_from_other_clips_skip_padding_and_the_positive() -> None:
    frames = torch.tensor([4, 7])
    negatives = sample_future_negatives(frames, 7, 0, 300, None, generator=generator())
    true_positions = {0, 1, 2, 3, *range(7, 14)}
    for clip, count in enumerate(frames.tolist()):
        for frame in range(count):
            own = clip * 7 + frame
            assert set(negatives[clip, frame].tolist()) == true_positions - {own}


def test_negatives_are_uniform() -> None:
    frames = torch.tensor([6, 6])
    negatives = sample_future_negatives(frames, 6, 6000, 6000, None, generator=generator(3))
    for clip in range(2):
        for frame in range(6):
            own = torch.bincount(negatives[clip, frame, :6000] - 6 * clip, minlength=6).double()
            expected = torch.full((6,), 1200.0, dtype=torch.float64)
            expected[frame] = 0
            # chi-square with 4 degrees of freedom: 25 is exceeded once in 20,000 draws
            assert own[frame] == 0
            assert ((own - expected) ** 2 / expected.clamp(min=1)).sum() < 25
            mixed = torch.bincount(negatives[clip, frame, 6000:], minlength=12).double()
            keep = torch.arange(12) != 6 * clip + frame
            chi_square = ((mixed[keep] - 6000 / 11) ** 2 / (6000 / 11)).sum()
            assert chi_square < 42  # 10 degrees of freedom


def test_negatives_follow_the_generator_alone() -> None:
    frames = torch.tensor([5, 8])
    first = sample_future_negatives(frames, 8, 3, 2, None, generator=generator(7))
    torch.manual_seed(1)
    assert torch.equal(first, sample_future_negatives(frames, 8, 3, 2, None, generator=generator(7)))
    assert not torch.equal(first, sample_future_negatives(frames, 8, 3, 2, None, generator=generator(8)))


def test_clips_of_one_frame_give_valid_positions() -> None:
    negatives = sample_future_negatives(torch.tensor([1]), 1, 3, 2, None, generator=generator())
    assert negatives.min() >= 0
    assert negatives.max() < 1
