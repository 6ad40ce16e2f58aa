"""Stopped after any update and resumed, what depends on epochs or on updates is that of a run in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from child import assert_same
from toy_training import make_trainer

END = 16  # updates; an epoch has eleven batches, so the second one begins after eleven updates


def options(max_update: int) -> dict[str, Any]:
    return {
        "model": {"dropout": 0.2, "freeze_updates": 5},
        "optimization": {"lr": (0.01, 0.004), "update_freq": (1, 2), "max_update": max_update},
        "schedule": {"warmup_updates": 3},
        "dataset": {"disable_validation": True},
    }


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 10, 11, 12, 15])
def test_lists_by_epoch_and_what_follows_from_the_number_of_updates(tmp_path: Path, stop: int) -> None:
    """At each side of the borders: of the frozen updates, of the warm-up, and of the epoch."""
    whole = make_trainer(tmp_path / "whole", options(END))
    whole.train()
    first = make_trainer(tmp_path / "run", options(stop))
    first.train()
    rest = make_trainer(tmp_path / "run", options(END))
    rest.train()
    for part in ("model", "optimizer", "iterator"):
        assert_same(rest.state_dict()[part], whole.state_dict()[part], part)
    # Temperatures and frozen parts follow from what the model is told.
    told = [trainer.model.updates_seen for trainer in (first, rest, whole)]  # type: ignore[attr-defined]
    assert told[0] + told[1] == told[2]
    assert first.batches.epoch == (1 if stop <= 11 else 2)
