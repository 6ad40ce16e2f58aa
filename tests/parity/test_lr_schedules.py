"""Learning-rate schedules against tables recorded from the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.config import build_config
from w2v.config.sections import OptimizationConfig
from w2v.optim import LR_SCHEDULERS, Schedule, build_schedule


def make(run: dict[str, Any]) -> Schedule:
    given = dict(run["args"])
    optimization = OptimizationConfig(lr=tuple(given.pop("lr")), max_update=given.pop("max_update", 0))
    entry = LR_SCHEDULERS.get(run["kind"])
    known = {name: value for name, value in given.items() if value is not None}
    return build_schedule(entry, build_config(entry.config, known, run["kind"]), optimization)


def test_every_recorded_rate(golden: Path) -> None:
    compared = 0
    for name, run in torch.load(golden / "lr_schedules.pt", weights_only=True)["runs"].items():
        schedule = make(run)
        if "updates" in run:
            rates = [schedule.lr(int(update), 1) for update in run["updates"]]
            expected = [float(rate) for rate in run["lr_after_n_updates"]]
        else:
            rates = [schedule.lr(0, epoch) for epoch, _ in run["after_step_begin_epoch"]]
            expected = [rate for _, rate in run["after_step_begin_epoch"]]
        assert rates == pytest.approx(expected, rel=1e-12, abs=0), name
        compared += len(rates)
    assert compared > 0
