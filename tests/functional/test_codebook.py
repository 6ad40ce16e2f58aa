"""Codebook arithmetic against closed forms and the textbook straight-through estimator."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.functional.codebook import (
    code_perplexity,
    codebook_index,
    codes_of_index,
    gumbel_noise,
    gumbel_probabilities,
    prob_perplexity,
    straight_through_lookup,
)
from w2v.rng import torch_generator


def test_perplexities_of_uniform_and_collapsed_choices() -> None:
    groups, num_vars = 2, 8
    uniform = torch.arange(num_vars)[:, None].expand(-1, groups)
    assert code_perplexity(uniform, num_vars).item() == pytest.approx(groups * num_vars, rel=1e-5)
    assert code_perplexity(torch.zeros(5, groups, dtype=torch.long), num_vars).item() == pytest.approx(groups, rel=1e-5)
    assert prob_perplexity(torch.zeros(5, groups, num_vars)).item() == pytest.approx(groups * num_vars, rel=1e-5)
    half = torch.tensor([[[30.0, 0.0]], [[0.0, 30.0]]])  # certain in each frame, undecided on average
    assert prob_perplexity(half).item() == pytest.approx(2, rel=1e-5)


def test_no_frames_give_finite_perplexities() -> None:
    assert torch.isfinite(prob_perplexity(torch.zeros(0, 2, 4)))
    assert torch.isfinite(code_perplexity(torch.zeros(0, 2, dtype=torch.long), 4))


def test_straight_through_gradients() -> None:
    generator = torch_generator("cpu", 0)
    logits = torch.randn(20, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    entries = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(20, 2, 3, generator=generator, dtype=torch.float64)
    soft = torch.softmax(logits / 1.7, dim=-1)
    codes = soft.argmax(dim=-1)
    one_hot = torch.nn.functional.one_hot(codes, 5).double()
    textbook = torch.einsum("ngv,gvd->ngd", one_hot - soft.detach() + soft, entries)
    expected = torch.autograd.grad((textbook * weights).sum(), [logits, entries], retain_graph=True)
    ours = straight_through_lookup(soft, codes, entries)
    torch.testing.assert_close(ours, textbook)
    found = torch.autograd.grad((ours * weights).sum(), [logits, entries])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@settings(max_examples=50)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32))
def test_product_codebook_rows(num_vars: int, groups: int, seed: int) -> None:
    codes = torch.randint(num_vars, (4, 3, groups), generator=torch_generator("cpu", seed))
    index = codebook_index(codes, num_vars)
    expected = sum(codes[..., g] * num_vars ** (groups - 1 - g) for g in range(groups))
    assert torch.equal(index, torch.as_tensor(expected))
    assert torch.equal(codes_of_index(index, num_vars, groups), codes)


def test_gumbel_noise_has_its_moments_and_stays_finite() -> None:
    noise = gumbel_noise((200_000,), generator=torch_generator("cpu", 0))
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_probabilities_are_float32_for_large_half_logits() -> None:
    logits = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16)
    soft = gumbel_probabilities(logits, torch.zeros(1, 3), 0.1)
    assert soft.dtype == torch.float32
    assert soft.tolist() == [[1.0, 0.0, 0.0]]
