"""Checkpoint files: whole or not at all, refused when they are something else, named and removed by the rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v import checkpoint
from w2v.checkpoint import copy_checkpoint, load_checkpoint, save_checkpoint
from w2v.checkpoint_manager import CheckpointManager
from w2v.errors import CheckpointError, ConfigError
from w2v.sections import CheckpointConfig

REPOSITORY = Path(__file__).resolve().parents[1]
STATE: dict[str, Any] = {"model": {"w": torch.arange(6.0)}, "trainer": {"num_updates": 3}, "config": {"a": [1, "x"]}}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_PAUSE", 0.0)


def manager(folder: Path, **fields: Any) -> CheckpointManager:
    made = CheckpointManager(CheckpointConfig(save_dir=str(folder), **fields))
    made.prepare()
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, STATE)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert (loaded["trainer"], loaded["config"]) == (STATE["trainer"], STATE["config"])
    assert loaded["format_version"] == checkpoint.FORMAT_VERSION
    assert names(tmp_path) == {"a.pt"}


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from w2v import checkpoint
from w2v.errors import CheckpointError
checkpoint.RETRY_PAUSE = 0.0
path = Path(sys.argv[1])
checkpoint.save_checkpoint(path, {"model": torch.zeros(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save_checkpoint(path, {"model": torch.zeros(1_000_000)})
except CheckpointError as e:
    print(e)
    sys.exit(e.exit_code)
"""


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_last.pt"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2, result.stderr
    assert result.stdout.strip().splitlines()[-1].startswith(f"{path}: cannot be written: File too large")
    assert "untouched" in result.stdout
    assert torch.equal(load_checkpoint(path)["model"], torch.zeros(10))
    assert names(tmp_path) == {"checkpoint_last.pt"}


def test_a_passing_fault_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_fsync, calls = os.fsync, []

    def fsync(number: int) -> None:
        calls.append(number)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        true_fsync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    save_checkpoint(tmp_path / "a.pt", STATE)
    assert load_checkpoint(tmp_path / "a.pt")["trainer"] == STATE["trainer"]
    assert names(tmp_path) == {"a.pt"}


def test_our_own_faults_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save_checkpoint(tmp_path / "a.pt", {"model": lambda: None})


@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "text": b"hello\n" * 50}[damage])
    with pytest.raises(CheckpointError, match="cannot be read, it is damaged") as e:
        load_checkpoint(path)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"args": None, "model": {}}, path)
    with pytest.raises(CheckpointError, match="no format_version"):
        load_checkpoint(path)
    torch.save({"format_version": checkpoint.FORMAT_VERSION + 1}, path)
    with pytest.raises(CheckpointError, match="this release reads up to"):
        load_checkpoint(path)
    torch.save({"format_version": 1, "args": Path("x")}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_the_files_of_the_recorded_run(tmp_path: Path) -> None:
    """`--save-interval-updates 4 --keep-interval-updates 2 --keep-last-epochs 2`, 29 updates an epoch, 30 in all."""
    made = manager(tmp_path, save_interval_updates=4, keep_interval_updates=2, keep_last_epochs=2)
    score = 10.0
    for update in range(4, 29, 4):
        score -= 1
        made.write(made.names(epoch=1, num_updates=update, end_of_epoch=False, score=score), STATE)
    made.write(made.names(epoch=1, num_updates=29, end_of_epoch=True, score=score - 1), STATE)
    assert made.names(epoch=2, num_updates=30, end_of_epoch=False, score=score + 9) == ["checkpoint_last.pt"]
    expected = {
        "checkpoint1.pt",
        "checkpoint_1_24.pt",
        "checkpoint_1_28.pt",
        "checkpoint_best.pt",
        "checkpoint_last.pt",
    }
    assert names(tmp_path) == expected


def test_ties_count_as_better_and_the_best_are_kept(tmp_path: Path) -> None:
    made = manager(tmp_path, keep_best_checkpoints=2, best_checkpoint_metric="wer", no_epoch_checkpoints=True)
    for epoch, score in enumerate((30.0, 20.004, 20.004, 25.0, 10.0), 1):
        made.write(made.names(epoch=epoch, num_updates=epoch, end_of_epoch=True, score=score), STATE)
    assert names(tmp_path) == {
        "checkpoint_best.pt", "checkpoint_last.pt", "checkpoint.best_wer_20.00.pt", "checkpoint.best_wer_10.00.pt"
    }  # fmt: skip
    assert made.best == 10.0
    first = made.names(epoch=6, num_updates=6, end_of_epoch=True, score=10.0)[0]
    assert first == "checkpoint_best.pt"


def test_larger_may_be_better(tmp_path: Path) -> None:
    made = manager(
        tmp_path, maximize_best_checkpoint_metric=True, keep_best_checkpoints=1, best_checkpoint_metric="acc"
    )
    for score in (0.5, 0.9, 0.7):
        made.write(made.names(epoch=1, num_updates=1, end_of_epoch=False, score=score), STATE)
    assert made.best == 0.9
    assert "checkpoint.best_acc_0.90.pt" in names(tmp_path)
    assert "checkpoint.best_acc_0.50.pt" not in names(tmp_path)


def test_interval_files_are_kept_through_the_end_of_an_epoch(tmp_path: Path) -> None:
    made = manager(tmp_path, save_interval=2, save_interval_updates=2, no_last_checkpoints=True)
    assert made.names(epoch=1, num_updates=2, end_of_epoch=True, score=None) == []
    assert made.names(epoch=2, num_updates=4, end_of_epoch=True, score=None) == ["checkpoint2.pt"]
    assert made.names(epoch=3, num_updates=6, end_of_epoch=False, score=None) == ["checkpoint_3_6.pt"]


def test_copies_are_the_same_file_until_one_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    save_checkpoint(first, STATE)
    copy_checkpoint(first, second)
    assert first.stat().st_ino == second.stat().st_ino
    save_checkpoint(first, {"model": 1})
    assert load_checkpoint(second)["trainer"] == STATE["trainer"]

    def no_links(source: Any, target: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    copy_checkpoint(first, second)
    assert load_checkpoint(second)["model"] == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--save-dir .*file/ck' cannot be written to"):
        manager(tmp_path / "file" / "ck")


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_last.pt.tmp").write_bytes(b"half")
    manager(tmp_path)
    assert names(tmp_path) == set()
