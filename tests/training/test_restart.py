"""Running the same command again: the run goes on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_training import make_trainer

from w2v.checkpoint.file import save_checkpoint
from w2v.errors import CheckpointError
from w2v.training.trainer import Trainer


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    make_trainer(tmp_path, {"optimization": {"max_update": 0, "max_epoch": 2}}).train()
    again = make_trainer(tmp_path, {"optimization": {"max_update": 0, "max_epoch": 2}})
    assert "--max-epoch" in again.train()
    assert again.task.calls == 0  # type: ignore[attr-defined]
    longer = make_trainer(tmp_path, {"optimization": {"max_update": 0, "max_epoch": 3}})
    longer.train()
    assert (longer.num_updates, longer.batches.epoch) == (33, 3)


def test_what_was_done_before_the_checkpoint_is_not_done_again(tmp_path: Path) -> None:
    """A skipped update after the restart leaves the number of updates as it was, and nothing is due at it."""
    options = {"checkpoint": {"save_interval_updates": 5}, "optimization": {"max_update": 5}}
    make_trainer(tmp_path, options).train()
    again = make_trainer(tmp_path, options)
    assert again._cadence.is_due(5)
    again.restore()
    assert not again._cadence.is_due(5)


def test_reset_flags_leave_their_parts_out(tmp_path: Path) -> None:
    make_trainer(tmp_path / "a").train()
    restore_file = str(tmp_path / "a" / "checkpoint_last.pt")
    flags = {
        "reset_optimizer": lambda t: (t.num_updates, len(t.optimizer.state), best(t)) == (0, 0, None),
        "reset_meters": lambda t: best(t) is None and t.num_updates == 10,
        "reset_dataloader": lambda t: (t.batches.epoch, t.batches.position) == (1, 0) and t.num_updates == 10,
        "reset_lr_scheduler": lambda t: t.num_updates == 10 and len(t.optimizer.state) == 4,
    }
    for flag, holds in flags.items():
        trainer = make_trainer(tmp_path / flag, {"checkpoint": {flag: True, "restore_file": restore_file}})
        trainer.restore()
        assert holds(trainer), flag


def best(trainer: Trainer) -> float | None:
    return trainer.manager.scores.best


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


def test_a_checkpoint_without_a_state_of_training_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "converted.pt", {"config": {}, "model": {}, "task": {}, "trainer": {"num_updates": 3}})
    options = {"checkpoint": {"restore_file": str(tmp_path / "converted.pt")}}
    with pytest.raises(CheckpointError, match="no state of training; give --finetune-from-model"):
        make_trainer(tmp_path, options).restore()


def test_optimizer_state_may_be_left_out(tmp_path: Path) -> None:
    options = {"checkpoint": {"no_save_optimizer_state": True}}
    make_trainer(tmp_path, options).train()
    trainer = make_trainer(tmp_path, options)
    trainer.restore()
    assert (trainer.num_updates, trainer.optimizer.state) == (10, {})
