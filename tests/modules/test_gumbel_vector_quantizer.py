"""The Gumbel quantiser: names, noise, and the estimator."""

from __future__ import annotations

import pytest
import torch

from w2v.functional.codebook import gumbel_noise
from w2v.modules.gumbel_vector_quantizer import GumbelVectorQuantizer
from w2v.rng import torch_generator


def make(**changes: object) -> GumbelVectorQuantizer:
    options = dict(dim=6, num_vars=4, temperature=(2.0, 0.5, 0.9), groups=2, combine_groups=False, vq_dim=10)
    return GumbelVectorQuantizer(**{**options, **changes})  # type: ignore[arg-type]


def test_names_and_shapes() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
    assert shapes == {"vars": (1, 8, 5), "weight_proj.weight": (8, 6), "weight_proj.bias": (8,)}
    deep = {
        name: tuple(tensor.shape)
        for name, tensor in make(weight_proj_depth=2, combine_groups=True).state_dict().items()
    }
    assert deep == {
        "vars": (1, 4, 5),
        "weight_proj.0.0.weight": (12, 6),
        "weight_proj.0.0.bias": (12,),
        "weight_proj.1.weight": (8, 12),
        "weight_proj.1.bias": (8,),
    }


@pytest.mark.parametrize("combine_groups", [False, True])
def test_training_equals_torchs_hard_gumbel_softmax(combine_groups: bool) -> None:
    quantizer = make(combine_groups=combine_groups).double()
    x = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    noise = gumbel_noise((3 * 5 * 2, 4), generator=torch_generator("cpu", 1))
    ours = quantizer(x, noise=noise)
    logits = quantizer.weight_proj(x).view(15, 2, 4).float()
    soft = torch.softmax((logits + noise.view(15, 2, 4)) / 2.0, dim=-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), 4) - soft.detach() + soft
    entries = quantizer.vars.float().view(-1, 4, 5).expand(2, -1, -1)
    textbook = torch.einsum("ngv,gvd->ngd", hard, entries).reshape(3, 5, 10)
    torch.testing.assert_close(ours.x.float(), textbook)
    weights = torch.randn(3, 5, 10)
    parameters = [x, *quantizer.parameters()]
    expected = torch.autograd.grad((textbook * weights).sum(), parameters, retain_graph=True)
    for found, wanted in zip(torch.autograd.grad((ours.x * weights).sum(), parameters), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_temperature_cools_per_update_and_not_per_call() -> None:
    quantizer = make()
    x = torch.randn(1, 2, 6)
    for call in range(3):
        quantizer(x, generator=torch_generator("cpu", call))
    assert quantizer.current_temperature == 2.0
    quantizer.set_num_updates(3)
    assert quantizer.current_temperature == pytest.approx(2 * 0.9**3)
    quantizer.set_num_updates(1000)
    assert quantizer.current_temperature == 0.5


def test_noise_follows_the_generator_and_its_absence_is_an_error() -> None:
    quantizer = make()
    x = torch.randn(2, 50, 6)
    first, again, other = (quantizer(x, generator=torch_generator("cpu", seed)).codes for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="noise or a generator"):
        quantizer(x)
    assert torch.equal(quantizer.eval()(x).codes, quantizer(x).codes)


def test_float32_inside_autocast() -> None:
    quantizer = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = quantizer(torch.randn(2, 3, 6) * 1e4, generator=torch_generator("cpu", 0))
    assert quantized.prob_perplexity.dtype == quantized.code_perplexity.dtype == torch.float32
    assert torch.isfinite(quantized.x).all()
