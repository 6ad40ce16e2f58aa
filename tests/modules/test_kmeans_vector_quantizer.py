"""Oracles: brute-force distances, the definition of the loss, autograd of the straight-through estimator."""

from __future__ import annotations

import pytest
import torch

from w2v.modules.kmeans_vector_quantizer import KmeansVectorQuantizer, nearest


@pytest.mark.parametrize("seed", range(5))
def test_nearest_against_all_distances(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(50, 3, 8, generator=generator)
    entries = 0.3 * torch.randn(3, 17, 8, generator=generator)
    distances = (frames.double().unsqueeze(2) - entries.double()).norm(dim=3)
    assert torch.equal(nearest(frames, entries), distances.argmin(dim=2))


@pytest.mark.parametrize("combine", [True, False])
def test_loss_is_squared_distance_on_true_frames(combine: bool) -> None:
    torch.manual_seed(0)
    quantizer = KmeansVectorQuantizer(12, 7, 3, combine_groups=combine, gamma=0.25)
    latent = torch.randn(2, 12, 9)
    frames = torch.tensor([9, 4])
    quantized = quantizer(latent, frames)
    total = torch.zeros(())
    count = 0
    for clip, length in enumerate(frames.tolist()):
        projected = quantizer.projection(latent[clip : clip + 1, :, :length])[0]
        total = total + (quantized.x[clip, :, :length] - projected).square().sum()
        count += projected.numel()
        codewords = [quantizer.entries()[g][quantized.codes[clip, :length, g]] for g in range(3)]
        torch.testing.assert_close(quantized.x[clip, :, :length].t(), torch.cat(codewords, dim=1))
    torch.testing.assert_close(quantized.kmeans_loss, 1.25 * total / count)


def test_gradient_passes_to_the_frames_and_the_loss_trains_the_codebook() -> None:
    torch.manual_seed(0)
    quantizer = KmeansVectorQuantizer(8, 5, 2, combine_groups=False, gamma=0.25)
    latent = torch.randn(1, 8, 6)
    quantized = quantizer(latent)
    weights = torch.randn_like(quantized.x)
    (quantized.x * weights).sum().backward(retain_graph=True)
    assert quantizer.embedding.grad is None or not quantizer.embedding.grad.any()
    passed = quantizer.projection[0].weight.grad.clone()
    quantizer.zero_grad()
    (quantizer.projection(latent) * weights).sum().backward()
    torch.testing.assert_close(passed, quantizer.projection[0].weight.grad)
    quantizer.zero_grad()
    quantized.kmeans_loss.backward()
    assert quantizer.embedding.grad.any()
