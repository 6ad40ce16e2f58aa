"""Two processes: the same numbers as one. What happens when one breaks is in `test_lost_ranks`."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from child import final_state, train_in_children
from toy_training import make_trainer

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("toy_training.py")
TWO = {"distributed_world_size": 2}


def run(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), json.dumps(options)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


def answer(folder: Path, rank: int) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / f"answer{rank}.pt", weights_only=True)
    return loaded


def one_rank(folder: Path, **options: Any) -> Any:
    """Train in this process; every update accumulates two batches."""
    options["optimization"] = {**options.get("optimization", {}), "update_freq": (2,)}
    trainer = make_trainer(folder, options)
    trainer.train()
    return trainer


def assert_weights(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    for rank in (0, 1):
        for name, tensor in answer(folder, rank)["weights"].items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_two_ranks_equal_one_that_accumulates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Through three epochs of eleven batches (so each ends in a filler), with parameters set free in the middle."""
    caplog.set_level(logging.INFO)
    options = {"model": {"freeze_updates": 4, "dropout": 0.2}, "optimization": {"max_update": 15}}
    two = run(tmp_path / "two", distributed=TWO, **options)
    assert two.returncode == 0, two.stderr
    one = one_rank(tmp_path / "one", **options)
    assert_weights(tmp_path / "two", one.model.state_dict())
    in_turn = [batch for pair in zip(*(answer(tmp_path / "two", rank)["seen"] for rank in (0, 1))) for batch in pair]
    assert in_turn[:11] == one.task.seen[:11]
    for tag in ("train_inner", "train", "valid"):
        marked = f"| INFO | {tag} | "
        ours = [json.loads(line.split(marked)[1]) for line in two.stdout.splitlines() if marked in line]
        theirs = [json.loads(record.message) for record in caplog.records if record.name == tag]
        for our, their in zip(ours, theirs, strict=True):
            for key in our:
                if not key.endswith(("wps", "ups", "wall", "audio_s", "eta", "data_wait")):
                    assert float(our[key]) == pytest.approx(float(their[key]), rel=1e-3, abs=1e-3), (tag, key)


def test_a_broken_clip_is_named_once(tmp_path: Path) -> None:
    options = {"optimization": {"max_update": 6}, "task": {"bad_clips": [4]}}
    ended = train_in_children(tmp_path / "two", options)
    assert [one.code for one in ended] == [0, 0], ended
    assert (ended[0].log + ended[1].log).count("clips 4, 5 ") == 1
    one = one_rank(tmp_path / "one", **options)
    assert one.skips.total == 1
    for name, tensor in final_state(tmp_path / "two")["model"].items():
        torch.testing.assert_close(tensor, one.model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_signal_to_one_rank_stops_all_and_one_rank_can_go_on(tmp_path: Path) -> None:
    options = {"optimization": {"max_update": 9}}
    signalled = {**options, "task": {"signal_at": 4, "fail_rank": 1}}
    asked = train_in_children(tmp_path / "two", signalled)
    assert [one.code for one in asked] == [0, 0], asked
    assert final_state(tmp_path / "two")["trainer"]["num_updates"] == 4
    resumed, whole = one_rank(tmp_path / "two", **options), one_rank(tmp_path / "one", **options)
    assert resumed.task.seen == whole.task.seen[8:]
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
