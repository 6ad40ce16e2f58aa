"""Why training ends: not too early, said in the last line, and for good."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from child import at_call, train_in_child
from toy_training import make_trainer

from w2v.checkpoint import file as checkpoint_file
from w2v.checkpoint.file import load_checkpoint
from w2v.config.sections import OptimizationConfig
from w2v.errors import DataError
from w2v.optim import LR_SCHEDULERS, build_schedule
from w2v.optim.base import Schedule

SCHEDULES: dict[str, dict[str, Any]] = {
    "fixed": {"warmup_updates": 6},
    "polynomial_decay": {"warmup_updates": 6, "total_num_update": 40},
    "inverse_sqrt": {"warmup_updates": 6},
    "tri_stage": {"warmup_steps": 6, "hold_steps": 2, "decay_steps": 20},
    "cosine": {"warmup_updates": 6, "warmup_init_lr": 0.0, "lr_period_updates": 20.0},
}
"""All of them climb from nearly nothing during six updates."""
STOPS: dict[str, dict[str, Any]] = {
    "--max-update": {"max_update": 8},
    "--max-epoch": {"max_update": 0, "max_epoch": 1},
    "--stop-time-hours": {"max_update": 0, "stop_time_hours": 1e-9},
    "--patience": {"max_update": 50},
    "--stop-min-lr": {"max_update": 0, "stop_min_lr": 0.006},
}


def options(schedule: str, stop: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "schedule": {"name": schedule, **SCHEDULES[schedule]}, "optimization": {"lr": (0.01,), **STOPS[stop]},
    }  # fmt: skip
    if stop == "--patience":
        made |= {"checkpoint": {"patience": 2, "maximize_best_checkpoint_metric": True},
                 "dataset": {"validate_interval_updates": 2}}  # fmt: skip
    if stop == "--stop-min-lr" and schedule == "fixed":
        made["schedule"] |= {"force_anneal": 2, "lr_shrink": 0.5}
    return made


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("stop", STOPS)
def test_each_reason_with_each_schedule(
    tmp_path: Path, schedule: str, stop: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trainer = make_trainer(tmp_path, options(schedule, stop))
    reason = trainer.train()
    assert stop in reason
    last = caplog.records[-1].getMessage()
    assert last.startswith("done training in ")
    assert last.endswith(f"({reason})")
    rates = [trainer.schedule.lr(n, 1 + max(n - 1, 0) // 11) for n in range(trainer.num_updates + 1)]
    if stop == "--stop-min-lr":
        assert max(rates) > 0.006 >= rates[-1]
        assert all(rate > 0.006 for rate in rates[rates.index(max(rates)) : -1])
    again = make_trainer(tmp_path, options(schedule, stop))
    assert stop in again.train()
    assert (again.num_updates, again.task.calls) == (trainer.num_updates, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stop", "longer"),
    [
        ("--max-update", {"optimization": {"max_update": 12}}),
        ("--max-epoch", {"optimization": {"max_update": 0, "max_epoch": 2}}),
        ("--stop-time-hours", {"optimization": {"max_update": 12, "stop_time_hours": 1.0}}),
        ("--patience", {"checkpoint": {"patience": 4, "maximize_best_checkpoint_metric": True}}),
        ("--stop-min-lr", {"optimization": {"max_update": 50, "stop_min_lr": -1.0}}),
    ],
)
def test_a_raised_limit_lets_an_ended_run_resume(tmp_path: Path, stop: str, longer: dict[str, Any]) -> None:
    given = options("polynomial_decay", stop)
    ended = make_trainer(tmp_path, given)
    ended.train()
    raised = {**given, **longer}
    if "optimization" in longer:
        raised["optimization"] = {"lr": (0.01,), **longer["optimization"]}
    trainer = make_trainer(tmp_path, raised)
    trainer.train()
    assert trainer.num_updates > ended.num_updates


def schedule(name: str, stop: float, lr: tuple[float, ...] = (0.01,), **fields: Any) -> Schedule:
    entry = LR_SCHEDULERS.get(name)
    return build_schedule(entry, entry.config(**fields), OptimizationConfig(lr=lr, stop_min_lr=stop, max_update=100))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stop", [0.0, 1e-4, 5e-3, 0.01, 0.02])
def test_a_rate_has_fallen_where_brute_force_says_so(name: str, stop: float) -> None:
    """And after a restart at any update, when nothing has been looked at."""
    going = schedule(name, stop, **SCHEDULES[name])
    for n in range(60):
        expected = going.lr(n, 1) <= stop and any(going.lr(before, 1) > stop for before in range(n))
        assert going.has_fallen(n, 1) == expected
        assert schedule(name, stop, **SCHEDULES[name]).has_fallen(n, 1) == expected


def test_rates_of_a_list_by_epochs() -> None:
    rising = schedule("fixed", 5e-3, lr=(1e-3, 1e-2, 1e-3))
    assert [rising.has_fallen(10 * epoch, epoch) for epoch in (1, 2, 3)] == [False, False, True]
    constant = schedule("fixed", 5e-3, lr=(1e-3,))
    assert not any(constant.has_fallen(n, 1 + n // 10) for n in range(50))


def test_the_best_that_was_seen_is_kept(tmp_path: Path) -> None:
    """Validated between two saves, and told from the next best by the sixth digit alone."""
    seen = [5.0, 3.4461538, 3.4461539, 4.0, 3.9]
    trainer = make_trainer(
        tmp_path,
        {
            "optimization": {"max_update": 10},
            "checkpoint": {"save_interval_updates": 50, "keep_best_checkpoints": 3, "no_epoch_checkpoints": True},
            "dataset": {"validate_interval_updates": 2},
        },
    )
    trainer.task.valid_losses = [loss * size * math.log(2) for loss in seen for size in valid_sizes()]  # type: ignore[attr-defined]
    trainer.train()
    updates = {path.name: load_checkpoint(path)["trainer"]["num_updates"] for path in tmp_path.glob("checkpoint*best*")}
    assert updates == {
        "checkpoint_best.pt": 4, "checkpoint.best_loss_3.45_4.pt": 4, "checkpoint.best_loss_3.45_6.pt": 6,
        "checkpoint.best_loss_3.90_10.pt": 10,
    }  # fmt: skip


def valid_sizes() -> list[int]:
    """Return the frames of the toy's three validation batches, whose losses are sums."""
    return [2 * (3 + 100 % 5), 2 * (3 + 102 % 5), 3 + 104 % 5]


def test_without_a_last_file_the_end_is_in_another(tmp_path: Path) -> None:
    given = {"optimization": {"max_update": 7}, "dataset": {"disable_validation": True},
             "checkpoint": {"no_last_checkpoints": True}}  # fmt: skip
    make_trainer(tmp_path, given).train()
    assert [path.name for path in tmp_path.glob("*.pt")] == ["checkpoint_1_7.pt"]
    again = make_trainer(tmp_path, given)
    again.train()
    assert again.task.calls == 0  # type: ignore[attr-defined]


def test_a_validation_that_fails_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad clip in the night costs no update, and no validation is left out."""
    given = {"optimization": {"max_update": 9}, "dataset": {"validate_interval_updates": 4}}
    trainer = make_trainer(tmp_path, given)

    def bad(*arguments: Any) -> Any:
        raise DataError("valid/a.flac: cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer.task), "valid_step", bad)
        with pytest.raises(DataError):
            trainer.train()
        again = make_trainer(tmp_path, given)
        with pytest.raises(DataError):
            again.train()
        assert (again.num_updates, again.task.calls) == (4, 0)  # type: ignore[attr-defined]
    mended = make_trainer(tmp_path, given)
    mended.train()
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["trainer"]["scores"]["best_update"] is not None
    assert mended.num_updates == 9


def test_another_number_of_ranks_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path, {"optimization": {"max_update": 3, "update_freq": (4,)}})
    trainer.config_plain["optimization"] = {"update_freq": [4]}
    trainer.train()
    make_trainer(tmp_path, {"optimization": {"max_update": 4, "update_freq": (2,)}}).train()
    assert "an update has 2 batches (1 ranks, --update-freq 2); it had 4" in caplog.text
    assert "--update-freq 4 would keep it" in caplog.text


def test_a_closed_terminal_saves_and_nohup_goes_on(tmp_path: Path) -> None:
    given = {"optimization": {"max_update": 9}}
    hang_up = lambda t: at_call(4, t.task, "train_step", lambda: os.kill(os.getpid(), signal.SIGHUP))  # noqa: E731
    ended = train_in_child(tmp_path / "a", given, hang_up)
    assert ended.code == 0, ended.log
    assert load_checkpoint(tmp_path / "a" / "checkpoint_last.pt")["trainer"]["num_updates"] == 4
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ended = train_in_child(tmp_path / "b", given, hang_up)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.code == 0, ended.log
    assert load_checkpoint(tmp_path / "b" / "checkpoint_last.pt")["trainer"]["num_updates"] == 9


def test_a_folder_that_becomes_read_only_ends_the_run_in_one_line(tmp_path: Path) -> None:
    """Between two saves, as after an error of the disk; the last checkpoint stays."""

    def read_only(*arguments: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def fault(trainer: Any) -> None:
        checkpoint_file.RETRY_PAUSE = 0.0
        at_call(6, trainer.task, "train_step", lambda: setattr(checkpoint_file, "_write", read_only))

    given = {"optimization": {"max_update": 9}, "checkpoint": {"save_interval_updates": 4}}
    ended = train_in_child(tmp_path, given, fault)
    assert ended.code == 2, ended.log
    assert "cannot be written: Read-only file system" in ended.log.splitlines()[-1]
    assert "Traceback" not in ended.log
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["trainer"]["num_updates"] == 4
    again = train_in_child(tmp_path, given)
    assert again.code == 0, again.log
    assert " @ 4 updates)" in again.log
