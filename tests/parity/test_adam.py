"""Adam against steps recorded from the original, one of them without a gradient for one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.optim.adam import Adam, AdamConfig
from w2v.optim.gradients import clip_coefficient, gradient_norm, scale_gradients


def runs(golden: Path) -> dict[str, Any]:
    return torch.load(golden / "adam.pt", weights_only=True)["runs"]


def make(run: dict[str, Any]) -> tuple[list[torch.nn.Parameter], Adam]:
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in run["init"]]
    config = AdamConfig(adam_betas=tuple(run["betas"]), adam_eps=run["eps"], weight_decay=run["weight_decay"])
    return parameters, Adam(config, parameters)


def advance(parameters: list[torch.nn.Parameter], adam: Adam, run: dict[str, Any], step: dict[str, Any]) -> float:
    for parameter, gradient in zip(parameters, step["grads"]):
        parameter.grad = None if gradient is None else gradient.clone()
    present = [parameter.grad for parameter in parameters if parameter.grad is not None]
    scale_gradients(present, torch.tensor(step["multiply"]))
    norm = gradient_norm(present, torch.device("cpu"))
    if run["clip_norm"] > 0:
        scale_gradients(present, clip_coefficient(norm, run["clip_norm"], 1e-6))
    adam.step(step["lr"])
    return norm.item()


def test_steps_and_moments_equal_the_recording(golden: Path) -> None:
    for name, run in runs(golden).items():
        parameters, adam = make(run)
        for number, step in enumerate(run["steps"]):
            norm = advance(parameters, adam, run, step)
            assert norm == pytest.approx(step["grad_norm_before_clip"], rel=1e-6), (name, number)
            for parameter, expected in zip(parameters, step["params_after"]):
                torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-6)
        state = adam.state_dict()["state"]
        assert set(state) == {int(i) for i in run["state"]}
        for i, expected in run["state"].items():
            entry = state[int(i)]
            assert entry["step"] == expected["step"]
            torch.testing.assert_close(entry["exp_avg"], expected["exp_avg"], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(entry["exp_avg_sq"], expected["exp_avg_sq"], rtol=1e-6, atol=1e-6)


def test_a_recorded_state_can_be_loaded(golden: Path) -> None:
    run = next(iter(runs(golden).values()))
    parameters, adam = make(run)
    for step in run["steps"]:
        advance(parameters, adam, run, step)
    fresh_parameters, fresh = make({**run, "init": run["steps"][-1]["params_after"]})
    group = {"lr": run["lr"], "betas": run["betas"], "eps": run["eps"], "params": list(range(len(run["init"])))}
    fresh.load_state_dict({"state": {int(i): entry for i, entry in run["state"].items()}, "param_groups": [group]})
    for both, optimizer in ((parameters, adam), (fresh_parameters, fresh)):
        advance(both, optimizer, run, run["steps"][0])
    for one, other in zip(parameters, fresh_parameters):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-6, atol=1e-6)
