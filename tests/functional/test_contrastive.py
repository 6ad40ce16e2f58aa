"""Contrastive logits against the definition, candidate by candidate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from w2v.functional.contrastive import Candidates, code_identity, contrastive_logits, vector_identity
from w2v.functional.negatives import sample_negatives
from w2v.rng import torch_generator


def brute_force(
    context: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> torch.Tensor:
    chosen = targets.flatten(0, 1)[negatives]  # (B, M, K, C): what the code under test never builds
    candidates = torch.cat([targets[:, :, None], chosen], dim=2)
    logits = F.cosine_similarity(context[:, :, None], candidates, dim=-1, eps=1e-8) / temperature
    same = (chosen == targets[:, :, None]).all(dim=-1)
    logits[:, :, 1:] = logits[:, :, 1:].masked_fill(same, -torch.inf)
    return logits.flatten(0, 1)


def plain(vectors: torch.Tensor) -> Candidates:
    return Candidates(vectors, vector_identity(vectors))


def random_case(clips: int, targets: int, across: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch_generator("cpu", clips, targets, across)
    context = torch.randn(clips, targets, 8, generator=generator)
    codes = torch.randint(3, (clips, targets, 2), generator=generator)
    entries = torch.randn(2, 3, 4, generator=generator)
    vectors = torch.cat([entries[0][codes[..., 0]], entries[1][codes[..., 1]]], dim=-1)
    return context, vectors, sample_negatives(clips, targets, 5, across, generator=generator), codes


@pytest.mark.parametrize("across", [0, 4])
@pytest.mark.parametrize("with_codes", [True, False])
def test_equals_brute_force(across: int, with_codes: bool) -> None:
    context, targets, negatives, codes = random_case(3, 7, across)
    expected = brute_force(context, targets, negatives, 0.1)
    assert torch.isinf(expected).any()
    candidates = Candidates(targets, code_identity(codes)) if with_codes else plain(targets)
    logits = contrastive_logits(context, candidates, negatives, 0.1)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    if across == 0:
        within = contrastive_logits(context, candidates, negatives, 0.1, cross_sample=False)
        torch.testing.assert_close(within, expected, rtol=1e-5, atol=1e-5)


def test_candidates_other_than_the_targets() -> None:
    context, targets, _, _ = random_case(2, 4, 0)
    everywhere = torch.randn(2, 9, 8, generator=torch_generator("cpu", 1))
    everywhere[:, 2:6] = targets
    negatives = torch.randint(18, (2, 4, 50), generator=torch_generator("cpu", 2))
    candidates = torch.cat([targets[:, :, None], everywhere.flatten(0, 1)[negatives]], dim=2)
    expected = F.cosine_similarity(context[:, :, None], candidates, dim=-1) / 0.5
    expected[:, :, 1:][(candidates[:, :, 1:] == targets[:, :, None]).all(dim=-1)] = -torch.inf
    assert torch.isinf(expected).any()
    further = torch.rand(2, 4, 3)
    logits = contrastive_logits(context, plain(targets), negatives, 0.5, candidates=plain(everywhere), further=further)
    torch.testing.assert_close(logits[:, :51], expected.flatten(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[:, 51:], further.flatten(0, 1) / 0.5)


def test_gradients_equal_brute_force() -> None:
    context, targets, negatives, codes = random_case(2, 6, 3)
    context, targets = context.double().requires_grad_(), targets.double().requires_grad_()
    labels = torch.zeros(12, dtype=torch.long)
    expected = torch.autograd.grad(
        F.cross_entropy(brute_force(context, targets, negatives, 0.1), labels), [context, targets]
    )
    single, single_targets = context.detach().float().requires_grad_(), targets.detach().float().requires_grad_()
    loss = F.cross_entropy(
        contrastive_logits(single, Candidates(single_targets, code_identity(codes)), negatives, 0.1), labels
    )
    for ours, theirs in zip(torch.autograd.grad(loss, [single, single_targets]), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_half_precision_input_is_compared_in_float32() -> None:
    context = torch.full((1, 3, 4), 6e4, dtype=torch.float16, requires_grad=True)
    targets = torch.eye(4, dtype=torch.float16)[None, :3] * 6e4
    negatives = sample_negatives(1, 3, 4, 0, generator=torch_generator("cpu", 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = contrastive_logits(context, plain(targets), negatives, 0.1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.full_like(logits, 5.0))  # cosine 1/2
    logits.sum().backward()
    assert context.grad is not None
    assert torch.isfinite(context.grad).all()


def test_a_collapsed_codebook_gives_a_loss_of_zero() -> None:
    context = torch.randn(1, 4, 8, requires_grad=True)
    targets = torch.ones(1, 4, 8)
    negatives = sample_negatives(1, 4, 5, 0, generator=torch_generator("cpu", 0))
    logits = contrastive_logits(context, plain(targets), negatives, 0.1)
    assert torch.isinf(logits[:, 1:]).all()
    loss = F.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()
    assert torch.isfinite(context.grad).all()  # type: ignore[arg-type]


def test_identity_of_vectors() -> None:
    vectors = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0))
    vectors[1, :10] = vectors[0, :10]
    vectors[1, 10] = vectors[0, 10].flip(0)
    vectors[0, 11], vectors[1, 11] = 0.0, -0.0
    equal = (vectors.flatten(0, 1)[:, None] == vectors.flatten(0, 1)[None]).all(dim=-1)
    identity = vector_identity(vectors).flatten()
    assert torch.equal(identity[:, None] == identity[None], equal)
