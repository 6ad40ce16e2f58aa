"""Running the same command again: the run goes on as if it had never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import make_trainer

from w2v.errors import CheckpointError

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("toy_training.py")


def run(folder: Path, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), json.dumps(options)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout)


def answer(folder: Path, rank: int = 0) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / f"answer{rank}.pt", weights_only=True)
    return loaded


OPTIONS: dict[str, Any] = {
    "model": {"dropout": 0.3},
    "optimization": {"update_freq": [2], "max_update": 17},
    "checkpoint": {"save_interval_updates": 3},
}


@pytest.mark.parametrize("common", [{}, {"fp16": True, "fp16_scale_window": 4}])
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, common: dict[str, Any]) -> None:
    """Killed inside an update, in the middle of its accumulation, in the second epoch."""
    options = {**OPTIONS, "common": common}
    whole = run(tmp_path / "whole", **options)
    assert whole.returncode == 0, whole.stderr
    killed = run(tmp_path / "killed", task={"kill_at": 26}, **options)
    assert killed.returncode == -9
    again = run(tmp_path / "killed", **options)
    assert again.returncode == 0, again.stderr
    assert "loaded checkpoint" in again.stdout
    expected, found = answer(tmp_path / "whole"), answer(tmp_path / "killed")
    assert expected["losses"][-len(found["losses"]) :] == found["losses"]
    assert expected["seen"][-len(found["seen"]) :] == found["seen"]
    assert len(found["losses"]) < len(expected["losses"])
    for name, tensor in expected["weights"].items():
        assert torch.equal(tensor, found["weights"][name]), name
    assert lines(again, "train")[-1]["train_loss"] == lines(whole, "train")[-1]["train_loss"]
    assert lines(again, "valid")[-1]["valid_best_loss"] == lines(whole, "valid")[-1]["valid_best_loss"]


def lines(result: subprocess.CompletedProcess[str], tag: str) -> list[dict[str, Any]]:
    marked = f"| INFO | {tag} | "
    return [json.loads(line.split(marked)[1]) for line in result.stdout.splitlines() if marked in line]


def test_a_run_asked_to_stop_saves_and_goes_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", **{**OPTIONS, "checkpoint": {}})
    asked = run(tmp_path / "asked", task={"signal_at": 9}, **{**OPTIONS, "checkpoint": {}})
    assert asked.returncode == 0, asked.stderr
    assert answer(tmp_path / "asked")["reason"] == "a signal asked for it"
    assert [path.name for path in (tmp_path / "asked").glob("*.pt") if "answer" not in path.name] == [
        "checkpoint_last.pt"
    ]
    assert len(answer(tmp_path / "asked")["losses"]) == 10  # the update was finished
    again = run(tmp_path / "asked", **{**OPTIONS, "checkpoint": {}})
    for name, tensor in answer(tmp_path / "whole")["weights"].items():
        assert torch.equal(tensor, answer(tmp_path / "asked")["weights"][name]), (name, again.stdout)
    assert whole.returncode == again.returncode == 0


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    make_trainer(tmp_path, {"optimization": {"max_update": 0, "max_epoch": 2}}).train()
    again = make_trainer(tmp_path, {"optimization": {"max_update": 0, "max_epoch": 2}})
    assert "--max-epoch" in again.train()
    assert again.task.calls == 0  # type: ignore[attr-defined]
    longer = make_trainer(tmp_path, {"optimization": {"max_update": 0, "max_epoch": 3}})
    longer.train()
    assert (longer.num_updates, longer.batches.epoch) == (33, 3)


def test_reset_flags_leave_their_parts_out(tmp_path: Path) -> None:
    make_trainer(tmp_path).train()
    flags = {
        "reset_optimizer": lambda t: (t.num_updates, len(t.optimizer.state)) == (0, 0) and t.manager.best is None,
        "reset_meters": lambda t: t.manager.best is None and t.num_updates == 10,
        "reset_dataloader": lambda t: (t.batches.epoch, t.batches.position) == (1, 0) and t.num_updates == 10,
        "reset_lr_scheduler": lambda t: t.num_updates == 10 and t.manager.best is not None,
    }
    for flag, holds in flags.items():
        trainer = make_trainer(tmp_path, {"checkpoint": {flag: True}})
        trainer.restore()
        assert holds(trainer), flag


def test_weights_alone_start_a_fine_tuning_once(tmp_path: Path) -> None:
    first = make_trainer(tmp_path / "a")
    first.train()
    options = {"checkpoint": {"finetune_from_model": str(tmp_path / "a" / "checkpoint_last.pt")}}
    second = make_trainer(tmp_path / "b", options)
    second.restore()
    assert second.num_updates == 0
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])
    second.train()
    third = make_trainer(tmp_path / "b", options)
    third.restore()
    assert third.num_updates == 10


def test_a_named_file_is_restored_and_must_exist(tmp_path: Path) -> None:
    make_trainer(tmp_path / "a").train()
    path = tmp_path / "a" / "checkpoint_best.pt"
    trainer = make_trainer(tmp_path / "b", {"checkpoint": {"restore_file": str(path)}})
    trainer.restore()
    assert trainer.num_updates == 10
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        make_trainer(tmp_path / "b", {"checkpoint": {"restore_file": str(tmp_path / "none.pt")}}).restore()


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path).train()
    other = make_trainer(tmp_path)
    other.config_plain["optimizer"] = {"_name": "sgd"}
    with pytest.raises(CheckpointError, match="--optimizer adam, this run has sgd"):
        other.restore()
    other = make_trainer(tmp_path)
    other.model.second = torch.nn.Linear(3, 3)  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match="does not fit the model"):
        other.restore()


def test_a_damaged_last_file_gives_way_to_the_newest_whole_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(
        tmp_path, {"checkpoint": {"save_interval_updates": 4}, "dataset": {"disable_validation": True}}
    ).train()
    last = tmp_path / "checkpoint_last.pt"
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[: len(content) // 2])
    trainer = make_trainer(tmp_path)
    trainer.restore()
    assert trainer.num_updates == 8
    assert "cannot be read" in caplog.text
    assert "checkpoint_1_8.pt instead" in caplog.text
    for path in tmp_path.glob("checkpoint*.pt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no other checkpoint"):
        make_trainer(tmp_path).restore()


def test_optimizer_state_may_be_left_out(tmp_path: Path) -> None:
    options = {"checkpoint": {"no_save_optimizer_state": True}}
    make_trainer(tmp_path, options).train()
    trainer = make_trainer(tmp_path, options)
    trainer.restore()
    assert (trainer.num_updates, trainer.optimizer.state) == (10, {})
