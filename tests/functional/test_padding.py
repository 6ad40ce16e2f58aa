"""Padded batches against the same clips alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from w2v.functional.padding import group_norm, is_padded, mean_square, padding_mask


def test_padding_mask() -> None:
    assert padding_mask(torch.tensor([3, 0, 2]), 3).tolist() == [[False] * 3, [True] * 3, [False, False, True]]
    assert is_padded(torch.tensor([3, 2]), 3)
    assert not is_padded(torch.tensor([3, 3]), 3)
    assert not is_padded(None, 3)


@pytest.mark.parametrize("num_groups", [1, 2, 6])
def test_group_norm_of_valid_frames(num_groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 20, generator=generator).double().requires_grad_()
    weight, bias = torch.randn(2, 6, generator=generator).double()
    lengths = torch.tensor([20, 7, 1, 0])
    result = group_norm(x, lengths, num_groups, weight, bias)
    for i, length in enumerate(lengths.tolist()):
        assert (result[i, :, length:] == 0).all()
        if length > 0:
            alone = torch.group_norm(x[i : i + 1, :, :length], num_groups, weight, bias)
            torch.testing.assert_close(result[i : i + 1, :, :length], alone)
    result.square().sum().backward()
    assert x.grad is not None
    for i, length in enumerate(lengths.tolist()):
        assert (x.grad[i, :, length:] == 0).all()


def test_unpadded_group_norm_is_torchs() -> None:
    x = torch.randn(2, 4, 9)
    expected = F.group_norm(x, 2)
    assert torch.equal(group_norm(x, None, 2, None, None), expected)
    assert torch.equal(group_norm(x, torch.tensor([9, 9]), 2, None, None), expected)


def test_mean_square_of_valid_frames() -> None:
    x = torch.randn(3, 10, 4)
    lengths = torch.tensor([10, 4, 0])
    valid = torch.cat([x[i, :length].flatten() for i, length in enumerate(lengths.tolist())])
    assert mean_square(x, lengths).item() == pytest.approx(valid.square().mean().item())
    assert mean_square(x, None).item() == pytest.approx(x.square().mean().item())
    huge = torch.full((1, 2, 2), 6e4, dtype=torch.float16)
    assert mean_square(huge, None).item() == pytest.approx(float(huge[0, 0, 0]) ** 2)
