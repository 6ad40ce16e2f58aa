"""The dynamic loss scale against changes recorded from the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.errors import TrainingError
from w2v.optim.loss_scaler import LossScaler


def make(args: dict[str, Any]) -> LossScaler:
    return LossScaler(
        args["init_scale"], args["scale_window"], args["tolerance"], args["threshold"], args["min_loss_scale"]
    )


def recorded(golden: Path) -> dict[str, Any]:
    return torch.load(golden / "loss_scaler.pt", weights_only=True)["runs"]


def test_every_recorded_change(golden: Path) -> None:
    for name, run in recorded(golden).items():
        if "scale_changes" not in run:
            continue
        scaler = make(run["args"])
        overflows = set(run["overflow_iterations"])
        changes, last = [], None
        for iteration in range(run["iterations"]):
            scaler.update(iteration in overflows)
            if scaler.scale != last:
                changes.append((iteration, scaler.scale))
            last = scaler.scale
        assert changes == [tuple(change) for change in run["scale_changes"]], name


def test_it_stops_at_the_minimum(golden: Path) -> None:
    run = recorded(golden)["min_scale_stop"]
    scaler = LossScaler()
    for _ in range(run["overflows_before_FloatingPointError"]):
        scaler.update(True)
    with pytest.raises(TrainingError, match="loss scale"):
        scaler.update(True)
    assert scaler.scale == pytest.approx(run["final_scale"])


def test_a_saved_scaler_goes_on_as_if_nothing_had_happened() -> None:
    one = LossScaler(window=7, tolerance=0.1)
    pattern = [i % 11 == 3 for i in range(100)]
    for overflow in pattern[:50]:
        one.update(overflow)
    other = LossScaler(window=7, tolerance=0.1)
    other.load_state_dict(one.state_dict())
    for overflow in pattern[50:]:
        one.update(overflow)
        other.update(overflow)
    assert one.state_dict() == other.state_dict()
