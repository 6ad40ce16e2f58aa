"""GELU and a linear layer in one: the numbers of the two, bit by bit, and less that is remembered."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from w2v.functional.gelu_linear import gelu_linear


@pytest.mark.parametrize("half", [None, torch.bfloat16])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_against_the_plain_formula(half: torch.dtype | None, is_frozen: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight, bias, upstream = (
        torch.randn(shape, generator=generator) for shape in ((2, 50, 64), (32, 64), (32,), (2, 50, 32))
    )
    answers, kept = [], []
    for function in (gelu_linear, lambda x, weight, bias: F.linear(F.gelu(x), weight, bias)):
        source = x.to(half or torch.float32).requires_grad_()
        leaves = [source, *(tensor.clone().requires_grad_(not is_frozen) for tensor in (weight, bias))]
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autocast("cpu", half, enabled=half is not None),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            result = function(*leaves)
        result.backward(upstream.to(result.dtype))
        answers.append([result, *(leaf.grad for leaf in leaves)])
        kept.append(sum(sizes.values()))
    for found, wanted in zip(*answers, strict=True):
        assert (found is None) == (wanted is None)
        if found is not None:
            assert found.dtype == wanted.dtype
            torch.testing.assert_close(
                found, wanted, rtol=1e-6 if half is None else 0, atol=1e-6 if half is None else 0
            )
    if not is_frozen:
        assert kept[0] < kept[1]
