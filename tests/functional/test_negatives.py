"""Properties and distribution of sampled negatives."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.functional.negatives import sample_negatives, sample_negatives_everywhere
from w2v.rng import torch_generator


@settings(max_examples=100)
@given(st.integers(1, 4), st.integers(2, 20), st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**32))
def test_never_the_positive_and_in_range(clips: int, targets: int, own: int, across: int, seed: int) -> None:
    negatives = sample_negatives(clips, targets, own, across, generator=torch_generator("cpu", seed))
    assert negatives.shape == (clips, targets, own + across)
    positive = torch.arange(clips * targets).view(clips, targets, 1)
    assert (negatives != positive).all()
    clip = torch.arange(clips)[:, None, None]
    assert (negatives[:, :, :own] // targets == clip).all()
    assert ((negatives >= 0) & (negatives < clips * targets)).all()


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum().item() / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def test_uniform_over_the_other_targets() -> None:
    clips, targets, many = 2, 6, 6000
    negatives = sample_negatives(clips, targets, many, many, generator=torch_generator("cpu", 3))
    for clip in range(clips):
        for target in range(targets):
            positive = clip * targets + target
            own = torch.bincount(negatives[clip, target, :many], minlength=clips * targets)
            across = torch.bincount(negatives[clip, target, many:], minlength=clips * targets)
            assert own[positive] == across[positive] == 0
            # 99.99 % points of chi-square with 4 and 10 degrees of freedom.
            own_others = own.view(clips, targets)[clip]
            assert chi_square(own_others[torch.arange(targets) != target].double()) < 23.6
            assert chi_square(across[torch.arange(clips * targets) != positive].double()) < 35.6


def test_a_lonely_target_gets_itself() -> None:
    generator = torch_generator("cpu", 0)
    assert sample_negatives(2, 1, 3, 0, generator=generator).tolist() == [[[0] * 3], [[1] * 3]]
    assert sample_negatives(1, 1, 1, 2, generator=generator).tolist() == [[[0, 0, 0]]]
    # In a batch of two, the other clip is there for cross-sample negatives.
    assert sample_negatives(2, 1, 1, 2, generator=generator).tolist() == [[[0, 1, 1]], [[1, 0, 0]]]
    assert sample_negatives(0, 0, 5, 0, generator=generator).shape == (0, 0, 5)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 2**32))
def test_everywhere_stays_off_padding(lengths: list[int], more: int, seed: int) -> None:
    num_frames = max(lengths) + more
    generator = torch_generator("cpu", seed)
    positions = torch.stack([torch.randperm(n, generator=generator)[:1].repeat(2) for n in lengths])
    negatives = sample_negatives_everywhere(positions, torch.tensor(lengths), num_frames, 30, 30, generator=generator)
    clip, frame = negatives // num_frames, negatives % num_frames
    assert (frame < torch.tensor(lengths)[clip]).all()
    assert (clip[:, :, :30] == torch.arange(len(lengths))[:, None, None]).all()
    own = torch.arange(len(lengths))[:, None, None] * num_frames + positions[:, :, None]
    for i, length in enumerate(lengths):
        assert (negatives[i, :, :30] != own[i]).all() == (length > 1)
        assert (negatives[i, :, 30:] != own[i]).all() == (sum(lengths) > 1)
    if sum(lengths) > 1:
        reached = negatives[0, 0, 30:].unique()
        assert len(reached) >= min(sum(lengths) - 1, 3)
