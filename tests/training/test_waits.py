"""No wait without an end: ranks that do not have the same are told at once, and a signal ends what is left."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child import at_call, train_in_child, train_in_children

from w2v import distributed
from w2v.checkpoint.file import load_checkpoint
from w2v.distributed import watchdog
from w2v.training.agreement import require_agreement

OPTIONS: dict[str, Any] = {"optimization": {"max_update": 12}}


# ------------------------------------------------------------------------------------------ agreement


def differ(field: str) -> Callable[[Any], None]:
    """Return a fault that gives a rank something else than the others."""

    def fault(trainer: Any) -> None:
        if field == "number of batches":
            trainer.batches.batches = trainer.batches.batches[:-4]
        elif field == "--lr":
            trainer.config_plain["optimization"] = {"lr": [0.5]}
        else:
            trainer.task.digest = lambda: {field: "22 entries, digest 0"}

    return fault


@pytest.mark.parametrize("field", ["manifest train", "dictionary", "--lr", "number of batches"])
def test_ranks_that_differ_are_told_before_training(tmp_path: Path, field: str) -> None:
    begin = time.monotonic()
    ended = train_in_children(tmp_path, OPTIONS, differ(field))
    assert time.monotonic() - begin < 60
    for one in ended:
        assert one.code == 2, one.log
        assert f"rank 1 on {os.uname().nodename} has another {field} than rank 0" in one.log
        assert "Traceback" not in one.log
    assert not list(tmp_path.glob("*.pt"))


def test_places_on_a_machine_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all versions and other flags are compared."""
    shown: list[Any] = []
    monkeypatch.setattr(distributed, "gather_objects", lambda value: shown.append(value) or [value])
    config = {"task": {"_name": "audio_pretraining", "data": "/a"}, "checkpoint": {"save_dir": "/b", "patience": 3},
              "dataset": {"num_workers": 7, "max_tokens": 5}}  # fmt: skip
    require_agreement({"manifest train": "1 entries"}, config)
    assert set(shown[0][1]) == {
        "version of w2v", "version of torch", "version of numpy", "version of Python", "task", "--patience",
        "--max-tokens", "manifest train",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ signals end waits


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT", 2.0)


def wait_in_c() -> None:
    """Wait as a driver or a collective does: in C, which signals do not wake up."""
    # SIGCHLD, too: where an earlier test left a handler, the end of a child would wake the wait up.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, watchdog.PROBE})
    ctypes.CDLL(None).sleep(60)


def signal_later(seconds: float) -> None:
    if os.fork() == 0:
        parent = os.getppid()
        time.sleep(seconds)
        os.kill(parent, signal.SIGTERM)
        os._exit(0)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("faulty", [0, 1])
def test_ranks_that_wait_for_one_another_end_after_a_signal_to_one(tmp_path: Path, faulty: int) -> None:
    """One hangs, the other waits for it in a sum over ranks, and the signal comes to the one that hangs."""

    def hang(trainer: Any) -> None:
        at_call(5, trainer.task, "train_step", lambda: (signal_later(0.5), wait_in_c()))

    begin = time.monotonic()
    ended = train_in_children(tmp_path, OPTIONS, hang, faulty=faulty)
    assert time.monotonic() - begin < 40
    for one in ended:
        assert one.code == 3, one.log
        assert "a signal asked this run to end" in one.log
        assert "Traceback" not in one.log


@pytest.mark.usefixtures("_soon")
def test_a_single_process_that_hangs_ends_after_a_signal(tmp_path: Path) -> None:
    ended = train_in_child(
        tmp_path, OPTIONS, lambda t: at_call(5, t.task, "train_step", lambda: (signal_later(0.5), wait_in_c()))
    )
    assert ended.code == 3, ended.log
    assert "the same command resumes from the last checkpoint" in ended.log


@pytest.mark.usefixtures("_soon")
def test_a_wait_for_data_ends_with_a_checkpoint(tmp_path: Path) -> None:
    """A reader that hangs: no update has begun, so what was trained is saved."""

    def hang(trainer: Any) -> None:
        at_call(7, trainer.batches.dataset, "load", lambda: (signal_later(0.5), time.sleep(100)))

    begin = time.monotonic()
    ended = train_in_child(tmp_path, OPTIONS, hang)
    assert time.monotonic() - begin < 30
    assert ended.code == 0, ended.log
    assert "stopping: a signal asked for it" in ended.log
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["trainer"]["num_updates"] == 6
    again = train_in_child(tmp_path, OPTIONS)
    assert again.code == 0, again.log
    whole = train_in_child(tmp_path / "whole", OPTIONS)
    assert whole.code == 0
    for name, tensor in load_checkpoint(tmp_path / "whole" / "checkpoint_last.pt")["model"].items():
        assert tensor.equal(load_checkpoint(tmp_path / "checkpoint_last.pt")["model"][name])


@pytest.mark.usefixtures("_soon")
def test_a_long_write_is_not_cut_short(tmp_path: Path) -> None:
    """A checkpoint that takes longer than the limit is written to its end."""

    def slow(trainer: Any) -> None:
        write = trainer.manager.write

        def written(*arguments: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            end = time.monotonic() + 5
            while time.monotonic() < end:
                ctypes.CDLL(None).usleep(100_000)
            return write(*arguments)

        trainer.manager.write = written

    options = {**OPTIONS, "checkpoint": {"save_interval_updates": 4}}
    ended = train_in_child(tmp_path, options, slow)
    assert ended.code == 0, ended.log
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["trainer"]["num_updates"] in (4, 5)
