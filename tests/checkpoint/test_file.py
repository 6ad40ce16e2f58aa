"""Checkpoint files: whole or not at all, refused when they are something else, named and removed by the rules."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.checkpoint import file as checkpoint
from w2v.checkpoint.file import copy_checkpoint, load_checkpoint, save_checkpoint
from w2v.checkpoint.manager import CheckpointManager
from w2v.config.sections import CheckpointConfig
from w2v.errors import CheckpointError, ConfigError, W2vError

STATE: dict[str, Any] = {"model": {"w": torch.arange(6.0)}, "trainer": {"num_updates": 3}, "config": {"a": [1, "x"]}}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_PAUSE", 0.0)


def manager(folder: Path, **fields: Any) -> CheckpointManager:
    made = CheckpointManager(CheckpointConfig(save_dir=str(folder), **fields))
    made.prepare()
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, STATE)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert (loaded["trainer"], loaded["config"]) == (STATE["trainer"], STATE["config"])
    assert loaded["format_version"] == checkpoint.FORMAT_VERSION
    assert names(tmp_path) == {"a.pt"}


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """Full at any place: in the directory of the archive, in its pickle, in its tensors."""
    path = tmp_path / "checkpoint_last.pt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    large = {"model": {f"w{i}": torch.zeros(1000) for i in range(20)}}
    for size in [0, 1, 70, 1000, *range(3000, 84_000, 7000)]:
        code, said = in_child(lambda size=size: save_with_room_for(size, path, large))  # type: ignore[misc]
        assert code == 2, (size, said)
        assert said.startswith(f"{path}: cannot be written: File too large; the file that was there before is")
        assert path.read_bytes() == before
        assert names(tmp_path) == {"checkpoint_last.pt"}
    assert in_child(lambda: save_with_room_for(200_000, path, large))[0] == 0
    assert load_checkpoint(path)["model"]["w19"].shape == (1000,)


def save_with_room_for(size: int, path: Path, state: dict[str, Any]) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    save_checkpoint(path, state)


def in_child(act: Callable[[], Any]) -> tuple[int, str]:
    """Call `act` in a forked child; return the exit code and the message of a `W2vError`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except W2vError as e:
            os.write(writer, str(e).encode())
            code = e.exit_code
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        made = manager(disk)
        state = {"model": torch.arange(10_000.0)}
        made.write(["checkpoint1.pt", "checkpoint_last.pt"], state)
        (disk / "ballast").write_bytes(bytes(180_000))
        with pytest.raises(CheckpointError, match=r"cannot be written: No space left on device; the file that was"):
            made.write(["checkpoint_last.pt"], {"model": torch.zeros(10_000)})
        assert torch.equal(load_checkpoint(disk / "checkpoint_last.pt")["model"], state["model"])
        (disk / "ballast").unlink()
        made.write(["checkpoint_last.pt"], {"model": torch.zeros(10_000)})
        assert not load_checkpoint(disk / "checkpoint_last.pt")["model"].any()
        made.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_content_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves the old file or the new one: nothing else can be seen of fsync without cutting the power."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(("fsync", opened(number))), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(("rename", Path(old).name)), replace(old, new)))
    save_checkpoint(tmp_path / "a.pt", STATE)
    assert done == [("fsync", "a.pt.tmp"), ("rename", "a.pt.tmp"), ("fsync", tmp_path.name)]


def opened(number: int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{number}")).name


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


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    for damaged in [*(content[:size] for size in range(0, len(content), 23)), b"hello\n" * 50]:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be read, it is damaged") as e:
            load_checkpoint(path)
        assert str(path) in str(e.value)
        assert "\n" not in str(e.value)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """A file with a flipped bit is refused, or says the same: some bytes of an archive mean nothing."""
    path = tmp_path / "a.pt"
    weights = torch.randn(300, generator=torch.Generator().manual_seed(1))
    save_checkpoint(path, {**STATE, "model": {"w": weights}})
    content, rng = path.read_bytes(), np.random.default_rng(1)
    in_tensor = content.index(weights.numpy().tobytes())
    places = [*range(0, len(content), 3), *range(in_tensor, in_tensor + 1200, 7)]
    noticed = set()
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            noticed.add(place)
        else:
            assert torch.equal(loaded["model"]["w"], weights)
            assert (loaded["trainer"], loaded["config"]) == (STATE["trainer"], STATE["config"])
    assert noticed >= set(range(in_tensor, in_tensor + 1200, 7))


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.save({"format_version": 1, **STATE}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(tmp_path / "old.pt")["model"]["w"], STATE["model"]["w"])
    if not hasattr(torch.serialization, "set_crc32_options"):
        return
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(tmp_path / "a.pt", STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_checkpoint(tmp_path / "a.pt")["model"]["w"], STATE["model"]["w"])


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


def test_of_equal_scores_the_earlier_is_kept(tmp_path: Path) -> None:
    made = manager(tmp_path, keep_best_checkpoints=3, best_checkpoint_metric="wer", no_epoch_checkpoints=True)
    for epoch, score in enumerate((30.0, 20.004, 20.004, 20.003, 25.0, 10.0), 1):
        made.write(made.names(epoch=epoch, num_updates=epoch, end_of_epoch=True, score=score), STATE)
    assert names(tmp_path) == {
        "checkpoint_best.pt", "checkpoint_last.pt", "checkpoint.best_wer_20.00_2.pt", "checkpoint.best_wer_20.00_4.pt",
        "checkpoint.best_wer_10.00_6.pt", "checkpoint_previous.pt",
    }  # fmt: skip
    assert (made.scores.best, made.scores.best_update) == (10.0, 6)
    assert made.names(epoch=7, num_updates=7, end_of_epoch=True, score=10.0) == [
        "checkpoint.best_wer_10.00_7.pt", "checkpoint_last.pt",
    ]  # fmt: skip


def test_larger_may_be_better(tmp_path: Path) -> None:
    made = manager(
        tmp_path, maximize_best_checkpoint_metric=True, keep_best_checkpoints=1, best_checkpoint_metric="acc"
    )
    for update, score in enumerate((0.5, 0.9, 0.7), 1):
        made.write(made.names(epoch=1, num_updates=update, end_of_epoch=False, score=score), STATE)
    assert made.scores.best == 0.9
    assert "checkpoint.best_acc_0.90_2.pt" in names(tmp_path)
    assert "checkpoint.best_acc_0.50_1.pt" not in names(tmp_path)


def test_what_is_due_at_an_update_is_written_at_the_end_of_an_epoch_too(tmp_path: Path) -> None:
    made = manager(tmp_path, save_interval=2, save_interval_updates=2, no_last_checkpoints=True)
    assert made.names(epoch=1, num_updates=2, end_of_epoch=True, score=None) == ["checkpoint_1_2.pt"]
    assert made.names(epoch=1, num_updates=3, end_of_epoch=True, score=None) == []
    assert made.names(epoch=1, num_updates=3, end_of_epoch=True, score=None, is_end=True) == ["checkpoint_1_3.pt"]
    both = ["checkpoint2.pt", "checkpoint_2_4.pt"]
    assert made.names(epoch=2, num_updates=4, end_of_epoch=True, score=None) == both
    assert made.names(epoch=3, num_updates=6, end_of_epoch=False, score=None) == ["checkpoint_3_6.pt"]


def test_copies_are_the_same_file_until_one_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    save_checkpoint(first, STATE)
    copy_checkpoint(first, second)
    assert first.stat().st_ino == second.stat().st_ino
    save_checkpoint(first, {"model": 1})
    assert load_checkpoint(second)["trainer"] == STATE["trainer"]

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


def state(number: int) -> dict[str, Any]:
    return {"model": torch.full((100,), float(number)), "trainer": {"num_updates": number}}


@pytest.mark.parametrize("links", [True, False])
def test_the_one_before_is_used_where_the_last_is_damaged(
    tmp_path: Path, links: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where no flag keeps an older file, and the other names of the last one are as damaged."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    made = manager(tmp_path, no_epoch_checkpoints=True)
    for number in (1, 2, 3):
        made.write(["checkpoint_best.pt", "checkpoint_last.pt"], state(number))
    assert names(tmp_path) == {"checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_previous.pt"}
    for name in ("checkpoint_best.pt", "checkpoint_last.pt")[: 1 + (not links)]:
        content = bytearray((tmp_path / name).read_bytes())
        content[content.index(state(3)["model"].numpy().tobytes()) + 37] ^= 4
        with open(tmp_path / name, "rb+") as file:
            file.write(content)
    found = made.find_start()
    assert found.path is not None
    assert found.state is not None
    assert (found.path.name, found.state["trainer"]["num_updates"]) == ("checkpoint_previous.pt", 2)
    assert "checkpoint_last.pt: cannot be read, it is damaged" in caplog.text
    assert f"resuming from {tmp_path / 'checkpoint_previous.pt'} instead" in caplog.text
    # The good one is not given up for the damaged one while the next is being written.
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full_disk)
        with pytest.raises(CheckpointError, match="No space left"):
            made.write(["checkpoint_last.pt"], state(4))
    assert load_checkpoint(tmp_path / "checkpoint_previous.pt")["trainer"]["num_updates"] == 2
    made.write(["checkpoint_last.pt"], state(4))
    made.write(["checkpoint_last.pt"], state(5))
    assert load_checkpoint(tmp_path / "checkpoint_previous.pt")["trainer"]["num_updates"] == 4


def no_links(source: Any, target: Any) -> None:
    raise OSError(95, "Operation not supported")


def full_disk(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


def test_an_older_file_serves_as_the_one_before(tmp_path: Path) -> None:
    made = manager(tmp_path)
    for epoch in (1, 2, 3):
        made.write(made.names(epoch=epoch, num_updates=epoch, end_of_epoch=True, score=None), state(epoch))
    assert names(tmp_path) == {"checkpoint1.pt", "checkpoint2.pt", "checkpoint3.pt", "checkpoint_last.pt"}
    os.truncate(tmp_path / "checkpoint_last.pt", 300)
    found = made.find_start()
    assert found.path is not None
    assert found.path.name == "checkpoint2.pt"
    for path in tmp_path.glob("checkpoint*.pt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no other checkpoint"):
        made.find_start()
