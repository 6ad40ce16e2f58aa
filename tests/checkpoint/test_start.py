"""How a start begins: the newest whole file, flags that hold once, and nothing that is overwritten."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.checkpoint.file import load_checkpoint, save_checkpoint
from w2v.checkpoint.manager import CheckpointManager
from w2v.checkpoint.start import Start
from w2v.config.sections import CheckpointConfig
from w2v.errors import CheckpointError


class Run:
    """A run of nothing but checkpoints, one after every update."""

    def __init__(self, folder: Path, **flags: Any) -> None:
        self.manager = CheckpointManager(CheckpointConfig(save_dir=str(folder), **flags))
        self.manager.prepare()
        self.start: Start = self.manager.find_start()
        self.num_updates = 0
        state = self.start.state
        if state is not None and not (self.start.resets and flags.get("reset_optimizer")):
            self.num_updates = state["trainer"]["num_updates"]
            if "scores" in state["trainer"]:
                self.manager.scores.load_state_dict(state["trainer"]["scores"])
        self.manager.complete(self.start)

    def train(self, updates: int, scores: dict[int, float] | None = None) -> None:
        for _ in range(updates):
            self.num_updates += 1
            score = (scores or {}).get(self.num_updates)
            names = self.manager.names(epoch=1, num_updates=self.num_updates, end_of_epoch=False, score=score)
            self.manager.write(names, self.state(names))

    def state(self, names: list[str]) -> dict[str, Any]:
        start = self.manager.start
        trainer = {
            "num_updates": self.num_updates, "run": start.run, "start": start.number, "began": start.began,
            "names": names, "scores": self.manager.scores.state_dict(),
        }  # fmt: skip
        return {"model": torch.full((20,), float(self.num_updates)), "trainer": trainer, "iterator": {"epoch": 1}}


def run(folder: Path, updates: int, **flags: Any) -> Run:
    made = Run(folder, save_interval_updates=1, **flags)
    made.train(updates)
    made.manager.close()
    return made


def updates(folder: Path) -> dict[str, int]:
    return {path.name: load_checkpoint(path)["trainer"]["num_updates"] for path in folder.glob("checkpoint*.pt")}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((20,), float(updates(path.parent)[path.name])).numpy().tobytes())] ^= 1
    path.write_bytes(content)


# ------------------------------------------------------------------------------------------ the newest file


@pytest.mark.parametrize("lost", ["missing", "dangling", "cut", "flipped"])
def test_without_a_last_file_the_newest_whole_one_is_taken(
    tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, 4)
    last = tmp_path / "checkpoint_last.pt"
    if lost == "flipped":
        flip(last)  # and with it its other name
    elif lost == "cut":
        os.truncate(last, 100)
    else:
        last.unlink()
    if lost == "dangling":
        last.symlink_to(tmp_path / "gone.pt")
    again = Run(tmp_path)
    is_linked = lost in ("cut", "flipped")  # checkpoint_1_4.pt is the same file
    assert again.num_updates == (3 if is_linked else 4)
    assert "the newest whole file" in caplog.text
    assert again.start.path is not None
    assert str(again.start.path) in caplog.text


def test_the_order_of_writing_decides_and_not_the_clock(tmp_path: Path) -> None:
    run(tmp_path, 3)
    for number, path in enumerate(sorted(tmp_path.glob("checkpoint*.pt"), reverse=True)):
        os.utime(path, (number, number))
    (tmp_path / "checkpoint_last.pt").unlink()
    assert Run(tmp_path).num_updates == 3


def test_a_last_file_that_was_left_behind_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, 2)
    old = (tmp_path / "checkpoint_last.pt").read_bytes()
    run(tmp_path, 2, no_last_checkpoints=True)
    assert "checkpoint_last.pt" not in updates(tmp_path)  # it would be taken for the newest
    (tmp_path / "checkpoint_last.pt").write_bytes(old)
    assert Run(tmp_path).num_updates == 4
    assert "checkpoint_last.pt is older than" in caplog.text


def test_a_folder_of_damaged_files_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 2)
    for path in tmp_path.glob("*.pt"):
        os.truncate(path, 50)
    with pytest.raises(CheckpointError, match=r"no other checkpoint in .* can be read"):
        Run(tmp_path)


def test_damaged_files_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    run(tmp_path, 4, keep_interval_updates=2)
    os.truncate(tmp_path / "checkpoint_1_4.pt", 100)  # with checkpoint_last.pt
    made = Run(tmp_path, keep_interval_updates=2, save_interval_updates=5)
    assert made.num_updates == 3
    assert (tmp_path / "checkpoint_1_4.pt.damaged").exists()
    made.train(7)
    assert {"checkpoint_1_5.pt", "checkpoint_1_10.pt"} <= set(updates(tmp_path))


def test_names_that_a_killed_start_did_not_come_to_are_made(tmp_path: Path) -> None:
    """Killed between the first name of a save and the others."""
    made = Run(tmp_path, save_interval_updates=1, keep_interval_updates=2)
    made.train(3, {1: 5.0})
    made.num_updates = 4
    names = made.manager.names(epoch=1, num_updates=4, end_of_epoch=False, score=4.0)
    assert names == ["checkpoint_1_4.pt", "checkpoint_best.pt", "checkpoint_last.pt"]
    save_checkpoint(tmp_path / names[0], made.state(names))
    made.manager.close()
    assert updates(tmp_path)["checkpoint_best.pt"] == 1
    assert Run(tmp_path, save_interval_updates=1, keep_interval_updates=2).num_updates == 4
    assert updates(tmp_path) == {
        "checkpoint_1_3.pt": 3, "checkpoint_1_4.pt": 4, "checkpoint_best.pt": 4, "checkpoint_last.pt": 4,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ flags that hold once


@pytest.mark.parametrize("flags", [{}, {"reset_optimizer": True}, {"reset_meters": True, "reset_dataloader": True}])
def test_the_same_command_again_resumes(
    tmp_path: Path, flags: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "a", 5)
    flags = {**flags, "restore_file": str(tmp_path / "a" / "checkpoint_last.pt")}
    first = run(tmp_path / "b", 2, **flags)
    assert first.start.resets
    assert first.num_updates == (2 if "reset_optimizer" in flags else 7)
    caplog.set_level("INFO")
    again = run(tmp_path / "b", 1, **flags)
    assert not again.start.resets
    assert again.num_updates == first.num_updates + 1
    assert "has begun with --restore-file" in caplog.text
    fewer = run(tmp_path / "b", 1, restore_file=flags["restore_file"])
    assert fewer.num_updates == first.num_updates + 2
    assert run(tmp_path / "b", 1).num_updates == first.num_updates + 3


@pytest.mark.parametrize(
    "flags", [{"reset_optimizer": True}, {"restore_file": "x", "reset_optimizer": True}, {"finetune_from_model": "x"}]
)
def test_a_run_is_not_begun_anew_without_a_word(
    tmp_path: Path, flags: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "x", 2)
    flags = {
        name: str(tmp_path / "x" / "checkpoint_last.pt") if value == "x" else value for name, value in flags.items()
    }
    run(tmp_path / "run", 5)
    kept = updates(tmp_path / "run")
    again = Run(tmp_path / "run", **flags)
    assert (again.num_updates, again.start.resets, again.start.finetune) == (5, False, False)
    assert "for the first start in a folder; resuming" in caplog.text
    assert "--start-over" in caplog.text
    assert updates(tmp_path / "run") == kept
    again.manager.close()
    anew = Run(tmp_path / "run", **flags, start_over=True)
    assert anew.num_updates == 0
    assert updates(tmp_path / "run" / "left_3") == kept
    assert updates(tmp_path / "run") == {}


def test_an_empty_restore_file_begins_anew_once(tmp_path: Path) -> None:
    run(tmp_path, 5)
    kept = updates(tmp_path)
    assert run(tmp_path, 2, restore_file="").num_updates == 2
    assert updates(tmp_path / "left_2") == kept
    assert run(tmp_path, 1, restore_file="").num_updates == 3


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_does_not_start_over(tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, 2, start_over=True).num_updates == 2
    monkeypatch.setenv(variable, "1")
    assert run(tmp_path, 2, start_over=True).num_updates == 4
    monkeypatch.setenv(variable, "0")
    assert run(tmp_path, 2, start_over=True).num_updates == 2


# ------------------------------------------------------------------------------------------ going back


def test_going_back_keeps_the_newest_of_this_run_and_loses_nothing(tmp_path: Path) -> None:
    flags = {"save_interval_updates": 1, "keep_interval_updates": 2}
    first = Run(tmp_path, **flags)
    first.train(4, {2: 5.0})
    (tmp_path / "u4").write_bytes((tmp_path / "checkpoint_1_4.pt").read_bytes())
    first.train(5, {8: 3.0})
    first.manager.close()
    before = updates(tmp_path)
    back = Run(tmp_path, **flags, restore_file=str(tmp_path / "u4"))
    assert back.num_updates == 4
    assert updates(tmp_path / "left_2") == before
    # The best of this history is of update 2, and its file was overwritten by the best of update 8.
    assert back.manager.scores.best is None
    back.train(3, {6: 4.0})
    assert updates(tmp_path) == {
        "checkpoint_1_6.pt": 6, "checkpoint_1_7.pt": 7, "checkpoint_best.pt": 6, "checkpoint_last.pt": 7,
    }  # fmt: skip
    back.manager.close()
    assert Run(tmp_path, **flags, restore_file=str(tmp_path / "u4")).num_updates == 7


def test_going_back_leaves_the_files_on_the_way(tmp_path: Path) -> None:
    made = Run(tmp_path, save_interval_updates=1)
    made.train(6, {2: 5.0})
    made.manager.close()
    back = Run(tmp_path, save_interval_updates=1, restore_file=str(tmp_path / "checkpoint_1_4.pt"))
    assert back.num_updates == 4
    names = {f"checkpoint_1_{n}.pt" for n in (1, 2, 3, 4)}
    assert set(updates(tmp_path)) == names | {"checkpoint_best.pt", "checkpoint_last.pt"}
    assert updates(tmp_path)["checkpoint_last.pt"] == 4  # even if this start is killed before it saves
    assert back.manager.scores.best == 5.0
    assert set(updates(tmp_path / "left_2")) == {"checkpoint_1_5.pt", "checkpoint_1_6.pt", "checkpoint_last.pt"}


def test_starts_are_counted_even_if_they_saved_nothing(tmp_path: Path) -> None:
    assert [Run(tmp_path).start.number for _ in range(3)] == [1, 2, 3]
    (tmp_path / ".starts").write_text("nonsense")
    assert Run(tmp_path).start.number == 1


def test_many_old_files_are_not_opened(tmp_path: Path) -> None:
    run(tmp_path, 60)
    for path in tmp_path.glob("checkpoint_1_*.pt"):
        if path.name != "checkpoint_1_60.pt":
            path.write_bytes(b"")
    begin = time.monotonic()
    assert Run(tmp_path).num_updates == 60
    assert time.monotonic() - begin < 5


# ------------------------------------------------------------------------------------------ the best


def test_lost_best_files_are_written_again_or_forgotten(tmp_path: Path) -> None:
    flags = {"save_interval_updates": 1, "keep_best_checkpoints": 2}
    made = Run(tmp_path, **flags)
    made.train(4, {1: 5.0, 2: 3.0, 3: 4.0})
    made.manager.close()
    (tmp_path / "checkpoint_best.pt").unlink()
    (tmp_path / "checkpoint.best_loss_4.00_3.pt").unlink()
    made = Run(tmp_path, **flags)
    assert updates(tmp_path)["checkpoint_best.pt"] == 2
    assert updates(tmp_path)["checkpoint.best_loss_4.00_3.pt"] == 3
    made.manager.close()
    for name in ("checkpoint_best.pt", "checkpoint.best_loss_3.00_2.pt", "checkpoint_1_2.pt"):
        (tmp_path / name).unlink()
    made = Run(tmp_path, **flags)
    assert (made.manager.scores.best, made.manager.scores.kept) == (None, [(4.0, 3)])
    made.train(2, {5: 4.5, 6: 6.0})
    found = updates(tmp_path)
    assert found["checkpoint_best.pt"] == 5
    assert {name for name in found if "best_loss" in name} == {
        "checkpoint.best_loss_4.00_3.pt", "checkpoint.best_loss_4.50_5.pt",
    }  # fmt: skip


def test_files_of_other_programs_are_left_where_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a published checkpoint that lies in the folder: it is told of, and keeps its name."""
    run(tmp_path, 2)
    torch.save({"args": None, "model": {}}, tmp_path / "checkpoint9.pt")
    (tmp_path / "checkpoint_last.pt").unlink()
    assert Run(tmp_path).num_updates == 2
    assert (tmp_path / "checkpoint9.pt").exists()
