"""Optimizers beyond the recorded steps: skipping, joining late, saving; descent against torch."""

from __future__ import annotations

import pytest
import torch

from w2v.errors import CheckpointError, ConfigError
from w2v.optim import OPTIMIZERS, Optimizer, build_optimizer
from w2v.optim.adam import Adam, AdamConfig
from w2v.optim.gradients import DelayedRead, clip_coefficient, gradient_norm
from w2v.optim.sgd import Sgd, SgdConfig

SHAPES = ((4, 3), (5,), (2, 2))


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(of: list[torch.nn.Parameter], seed: int, without: tuple[int, ...] = ()) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for i, parameter in enumerate(of):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if i in without else gradient


def make(name: str, of: list[torch.nn.Parameter]) -> Optimizer:
    entry = OPTIMIZERS.get(name)
    config = AdamConfig(weight_decay=0.1) if name == "adam" else SgdConfig(momentum=0.9, weight_decay=0.01)
    return build_optimizer(entry, config, of)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_skipped_step_changes_nothing(name: str) -> None:
    ours, theirs = parameters(), parameters()
    one, other = make(name, ours), make(name, theirs)
    for step in range(6):
        give_gradients(ours, step)
        if step in (0, 3):
            one.step(0.1, skip=torch.ones(()))
            one.undo_count()
            continue
        give_gradients(theirs, step)
        one.step(0.1, skip=torch.zeros(()))
        other.step(0.1)
    for a, b in zip(ours, theirs):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_saved_optimizer_goes_on_to_the_bit(name: str) -> None:
    ours = parameters()
    one = make(name, ours)
    for step in range(3):
        give_gradients(ours, step, without=(1,) if step == 1 else ())
        one.step(0.1)
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    other = make(name, theirs)
    other.load_state_dict(one.state_dict())
    for step in range(3, 6):
        for of, optimizer in ((ours, one), (theirs, other)):
            give_gradients(of, step)
            optimizer.step(0.1)
    for a, b in zip(ours, theirs):
        assert torch.equal(a, b)


def test_a_parameter_that_joins_late_disturbs_nobody() -> None:
    """The others move as they would alone, and the late one as it would from its own first step."""
    together = parameters()
    adam = Adam(AdamConfig(), together)
    together[1].requires_grad_(False)
    for step in range(6):
        together[1].requires_grad_(step >= 3)
        give_gradients(together, step, without=() if step >= 3 else (1,))
        adam.step(0.1)
    for i in range(3):
        alone = parameters()
        single = Adam(AdamConfig(), alone[i : i + 1])
        for step in range(3 if i == 1 else 0, 6):
            give_gradients(alone, step)
            single.step(0.1)
        torch.testing.assert_close(together[i], alone[i], rtol=1e-6, atol=1e-7)


def test_descent_equals_that_of_torch() -> None:
    ours, theirs = parameters(), parameters()
    one = Sgd(SgdConfig(momentum=0.9, weight_decay=0.01), ours)
    other = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        for of in (ours, theirs):
            give_gradients(of, step)
        one.step(0.1)
        other.step()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_state_of_another_model_is_refused() -> None:
    adam = make("adam", parameters())
    give_gradients(adam.parameters, 0)
    adam.step(0.1)
    with pytest.raises(CheckpointError, match=r"holds 3 parameters, the model has 2.*--reset-optimizer"):
        make("adam", parameters()[:2]).load_state_dict(adam.state_dict())
    swapped = [parameters()[i] for i in (1, 0, 2)]
    with pytest.raises(CheckpointError, match=r"exp_avg of parameter 0 has shape \(4, 3\)"):
        make("adam", swapped).load_state_dict(adam.state_dict())


def test_options_out_of_range() -> None:
    with pytest.raises(ConfigError, match="--adam-betas"):
        AdamConfig(adam_betas=(0.9, 1.0))
    with pytest.raises(ConfigError, match="--momentum"):
        SgdConfig(momentum=2.0)


def test_norm_and_clip() -> None:
    give_gradients(some := parameters(), 0)
    gradients = [p.grad for p in some if p.grad is not None]
    norm = gradient_norm(gradients, torch.device("cpu"))
    assert norm.item() == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-6)
    assert clip_coefficient(norm, 1.0, 1e-6).item() == pytest.approx(1 / (norm.item() + 1e-6))
    assert clip_coefficient(norm, 1e6, 0.0).item() == 1.0
    assert gradient_norm([], torch.device("cpu")).item() == 0.0


def test_numbers_are_read_as_they_were() -> None:
    values = torch.tensor([1.0, 2.5])
    assert DelayedRead(values).read() == [1.0, 2.5]
