"""Killed or signalled at any moment, the same command goes on, and ends with the same state to the bit.

The toy is killed in an update, between micro-batches, in validation, and at every step of writing a checkpoint.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from child import assert_same, at_call, final_state, train_in_child, train_in_children

from w2v.checkpoint import file as checkpoint
from w2v.checkpoint.folder_lock import FolderLock

OPTIONS: dict[str, Any] = {
    "model": {"dropout": 0.3},
    "optimization": {"update_freq": [2], "max_update": 17},
    # The loss falls, so this calls the first validation the best, and counts the others against the patience.
    "checkpoint": {
        "save_interval_updates": 4,
        "keep_interval_updates": 1,
        "patience": 50,
        "maximize_best_checkpoint_metric": True,
    },
    "dataset": {"validate_interval_updates": 3},
    "task": {"bad_clips": [4]},
}
MOMENTS: dict[str, Callable[[Any, int, Callable[[], Any]], None]] = {
    "micro-batch": lambda trainer, n, act: at_call(2 * n, trainer.task, "train_step", act),
    "step": lambda trainer, n, act: at_call(n, trainer.optimizer, "step", act),
    "validation": lambda trainer, n, act: at_call(n, trainer.task, "valid_step", act),
    "writing": lambda trainer, n, act: at_call(7 * n, checkpoint._Recorder, "write", act),
    "fsync": lambda trainer, n, act: at_call(n, os, "fsync", act),
    "renaming": lambda trainer, n, act: at_call(n, os, "replace", act),
    "linking": lambda trainer, n, act: at_call(n, os, "link", act),
    "removing": lambda trainer, n, act: at_call(n, Path, "unlink", act),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state at the end of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    ended = train_in_child(folder, OPTIONS)
    assert ended.code == 0, ended.log
    return final_state(folder)


def signalled(number: int) -> Callable[[], None]:
    return partial(os.kill, os.getpid(), number)


@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on(tmp_path: Path, whole: dict[str, Any], moment: str, count: int) -> None:
    killed = train_in_child(tmp_path, OPTIONS, lambda t: MOMENTS[moment](t, count, lambda: signalled(signal.SIGKILL)()))
    assert killed.code == -signal.SIGKILL, killed.log
    again = train_in_child(tmp_path, OPTIONS)
    assert again.code == 0, again.log
    assert_same(final_state(tmp_path), whole)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("common", [{}, {"fp16": True, "fp16_scale_window": 4}], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 1)])
@pytest.mark.usefixtures("quick_half")
def test_workers_and_number_format_make_no_difference(
    tmp_path: Path, common: dict[str, Any], before: int, after: int
) -> None:
    options = {**OPTIONS, "common": common}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_in_child(whole, options).code == 0
    options["task"] = {**OPTIONS["task"], "num_workers": before}
    ended = train_in_child(killed, options, lambda t: MOMENTS["step"](t, 10, lambda: signalled(signal.SIGKILL)()))
    assert ended.code == -signal.SIGKILL
    options["task"]["num_workers"] = after
    again = train_in_child(killed, options)
    assert again.code == 0, again.log
    assert_same(final_state(killed), final_state(whole))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize(("moment", "count"), [("micro-batch", 4), ("validation", 2), ("fsync", 4), ("step", 12)])
def test_a_signalled_run_ends_well_and_goes_on(
    tmp_path: Path, whole: dict[str, Any], moment: str, count: int, number: signal.Signals
) -> None:
    """Validations that fell to the signal are made up for: best score and patience are those of the whole run."""
    asked = train_in_child(tmp_path, OPTIONS, lambda t: MOMENTS[moment](t, count, lambda: signalled(number)()))
    assert asked.code == 0, asked.log
    assert f"{number.name}: saving after this update" in asked.log
    assert "stopping: a signal asked for it" in asked.log
    again = train_in_child(tmp_path, OPTIONS)
    assert again.code == 0, again.log
    assert_same(final_state(tmp_path), whole)


def test_a_signal_is_answered_after_one_update_and_in_the_middle_of_a_validation(tmp_path: Path) -> None:
    asked = train_in_child(
        tmp_path, OPTIONS, lambda t: MOMENTS["validation"](t, 2, lambda: signalled(signal.SIGTERM)())
    )
    assert '"valid_loss"' not in asked.log
    assert final_state(tmp_path)["trainer"]["num_updates"] == 3  # the first validation came after three
    assert final_state(tmp_path)["trainer"]["owed"] == {"save": False}
    again = train_in_child(tmp_path, OPTIONS)
    first = next(line for line in again.log.splitlines() if '"valid_num_updates"' in line)
    assert '"valid_num_updates": "3"' in first


def test_a_signal_to_one_rank_in_validation_ends_both(tmp_path: Path) -> None:
    """The validation is given up by both ranks, and made up for by a run of one rank."""
    options = {**OPTIONS, "task": {}}
    ended = train_in_children(
        tmp_path, options, lambda t: MOMENTS["validation"](t, 1, lambda: signalled(signal.SIGUSR1)())
    )
    assert [child.code for child in ended] == [0, 0], ended
    asked = final_state(tmp_path)["trainer"]
    assert (asked["num_updates"], asked["owed"], asked["best"]) == (3, {"save": True}, None)  # an epoch's end
    alone = {**options, "optimization": {"update_freq": [4], "max_update": 3}}
    again = train_in_child(tmp_path, alone)
    assert again.code == 0, again.log
    made_up = final_state(tmp_path)["trainer"]
    assert (made_up["num_updates"], made_up["owed"]) == (3, None)
    assert made_up["best"] is not None


def test_a_second_run_in_the_folder_is_refused_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2v.checkpoint.folder_lock.PATIENCE", 0.1)
    lock = FolderLock(tmp_path)
    lock.acquire()
    refused = train_in_child(tmp_path, OPTIONS)
    lock.release()
    assert refused.code == 2
    assert refused.log.splitlines()[-1].startswith(f"error: --save-dir {str(tmp_path)!r} is in use by process")


def test_a_full_disk_stops_a_run_that_can_go_on(tmp_path: Path, whole: dict[str, Any]) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    def fill(trainer: Any) -> None:
        checkpoint.RETRY_PAUSE = 0.0
        at_call(12, trainer.optimizer, "step", lambda: setattr(os, "fsync", full))

    stopped = train_in_child(tmp_path, OPTIONS, fill)
    assert stopped.code == 2, stopped.log
    assert stopped.log.splitlines()[-1].endswith(".pt: cannot be written: No space left on device")
    again = train_in_child(tmp_path, OPTIONS)
    assert again.code == 0, again.log
    assert_same(final_state(tmp_path), whole)
