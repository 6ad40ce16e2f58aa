"""How a start of a run begins: with which checkpoint, and which flags about the beginning still hold.

Read this for the rules of `--restore-file`, `--reset-*`, `--finetune-from-model` and `--start-over`:

* A folder that holds a run is resumed, from the newest whole file in it.
* The flags about the beginning hold once. A run remembers with which of them it began (`began` in its checkpoints), so
  the same command, started again by a scheduler, resumes instead of beginning again.
* Nothing is overwritten: files that do not lead to the checkpoint from which a run goes back are moved to `left_N/`,
  where N is the number of the start. So a folder holds one line of history, in which a file with more updates is later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2v.checkpoint.file import copy_checkpoint, load_checkpoint
from w2v.checkpoint.torch_file import read_torch_file
from w2v.config.sections import CheckpointConfig
from w2v.errors import CheckpointError

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
BEST = "checkpoint_best.pt"
PREVIOUS = "checkpoint_previous.pt"
INTERVAL = re.compile(r"checkpoint_(\d+)_(\d+)\.pt")
EPOCH = re.compile(r"checkpoint(\d+)\.pt")
ONE_OF_BEST = re.compile(r"checkpoint\.best_(.+)_(-?\d+\.\d+|-?inf|nan)(?:_(\d+))?\.pt")
STARTS = ".starts"
DAMAGED = ".damaged"
AUTOMATIC = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Above 0 where a launcher or a scheduler has started the same command again by itself."""


@dataclass(frozen=True)
class Start:
    """How a start begins; the same on every rank.

    Attributes:
        number: of this start, from 1; log lines carry it.
        run: a word that tells this run from others, in all its checkpoints.
        began: the flags with which the run began, by name.
        path: the checkpoint to load; None: none.
        resets: whether the `--reset-*` flags hold.
        finetune: whether the weights of `--finetune-from-model` are to be loaded.
        state: what `path` holds, where it has been read already.
    """

    number: int = 1
    run: str = ""
    began: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    resets: bool = False
    finetune: bool = False
    state: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Mark:
    """Where a checkpoint stands in the history of its run.

    Attributes:
        run: the run's word; "" in files of before version 0.9.
        start: number of the start that wrote it; 0 in such files.
        num_updates: updates done.
    """

    run: str
    start: int
    num_updates: int

    @staticmethod
    def of(state: Mapping[str, Any]) -> Mark:
        """Read the mark of a checkpoint's content."""
        trainer = state.get("trainer") or {}
        return Mark(str(trainer.get("run", "")), int(trainer.get("start", 0)), int(trainer.get("num_updates", 0)))

    def leads_to(self, other: Mark) -> bool:
        """Whether the run of `other` has come through here."""
        return self.run == other.run and self.start <= other.start and self.num_updates <= other.num_updates


def peek(path: Path) -> Mark | None:
    """Return the mark of a checkpoint without reading its tensors; None where the file is missing or cut short."""
    try:
        state = read_torch_file(path, mapped=True)  # nothing of its tensors is read
    except CheckpointError:
        return None
    return Mark.of(state) if isinstance(state, dict) else None


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint files of a folder, by name."""
    return sorted(path for path in folder.glob("checkpoint*.pt") if path.is_file())


class StartFinder:
    """Decides how a start begins. For rank 0, once the folder is locked.

    Args:
        config: the checkpoint section.
        folder: `--save-dir`.

    Attributes:
        last_is_damaged: `checkpoint_last.pt` is there and cannot be read.
    """

    def __init__(self, config: CheckpointConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self.last_is_damaged = False

    def find(self) -> Start:
        """Return how to begin, after moving away what would be overwritten.

        Raises:
            CheckpointError: `--restore-file` is missing or damaged, or no checkpoint of the folder is whole.
        """
        asked = asked_beginning(self._config, self._folder)
        newest = self._newest()
        number = self._next_number(newest)
        if newest is None:
            return self._first(asked, number)
        path, state = newest
        mark, began = Mark.of(state), state["trainer"].get("began") or {}
        if self._holds_again(asked, began):
            return self._go_back(asked, newest, number)
        resume = Start(number, mark.run or _word(), began, path, state=state)
        if asked and not is_same_beginning(asked, began):
            logger.warning(
                "%s hold%s for the first start in a folder; resuming the run that is here from %s; "
                "give --start-over, or another --save-dir, to begin anew", _named(asked), "s" * (len(asked) == 1), path,
            )  # fmt: skip
        elif asked:
            logger.info("the run here has begun with %s; resuming it from %s", _named(asked), path)
        return resume

    def _holds_again(self, asked: dict[str, Any], began: dict[str, Any]) -> bool:
        """Whether the flags about the beginning hold although the folder has a run."""
        if self._config.start_over:
            restarted = [name for name in AUTOMATIC if os.environ.get(name, "0") not in ("", "0")]
            if restarted:
                logger.warning("--start-over is left out: %s says that this is a restart", restarted[0])
            return not restarted
        if not asked or is_same_beginning(asked, began):
            return False
        if asked.get("restore_file") == "":
            return True
        return not ("finetune_from_model" in asked or "reset_optimizer" in asked)

    def _first(self, asked: dict[str, Any], number: int) -> Start:
        file = asked.get("restore_file")
        if not file:
            return Start(number, _word(), asked, finetune="finetune_from_model" in asked)
        return Start(number, _word(), asked, Path(file), resets=True, state=load_checkpoint(Path(file)))

    def _go_back(self, asked: dict[str, Any], newest: tuple[Path, dict[str, Any]], number: int) -> Start:
        """Begin from another file than the newest, or with other flags; move away what does not lead there."""
        file = asked.get("restore_file")
        if file == "" or (self._config.start_over and not file and not _resets(asked)):
            start = Start(number, _word(), asked, finetune="finetune_from_model" in asked)
            self._move_away(number, None, asked)
            return start
        path, state = (Path(file), load_checkpoint(Path(file))) if file else newest
        mark = Mark.of(state)
        if path != newest[0]:
            logger.warning("going back to --restore-file %s, from %s", path, newest[0])
        from_here = path.resolve().parent == self._folder.resolve() or mark.run == Mark.of(newest[1]).run
        run = mark.run if mark.run and from_here and "reset_optimizer" not in asked else _word()
        keeps = from_here and "reset_optimizer" not in asked
        self._move_away(number, mark if keeps else None, asked)
        if keeps and not (self._config.no_save or self._config.no_last_checkpoints or (self._folder / LAST).exists()):
            # If this start is killed before it saves, a plain command must not find an empty folder.
            copy_checkpoint(path, self._folder / LAST)
        return Start(number, run, asked, path, resets=True, state=state)

    def _move_away(self, number: int, mark: Mark | None, asked: dict[str, Any]) -> None:
        """Move files that do not lead to `mark` into a folder of their own."""
        target, moved = self._folder / f"left_{number}", 0
        if self._config.no_save:
            return
        for path in checkpoints(self._folder):
            theirs = peek(path)
            leads = mark is not None and theirs is not None and theirs.leads_to(mark)
            # Epochs are counted from 1 again, under names that are taken.
            if leads and not ("reset_dataloader" in asked and EPOCH.fullmatch(path.name)):
                continue
            try:
                target.mkdir(exist_ok=True)
                os.replace(path, target / path.name)
            except OSError as e:
                raise CheckpointError(f"{path}: cannot be moved to {target}: {e.strerror or e}") from e
            moved += 1
        if moved:
            logger.warning(
                "moved %d checkpoints that this run does not go through to %s; remove them if they are of no use",
                moved, target,
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------ the newest file

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest whole checkpoint of the folder, with its path; None where there is none at all.

        Raises:
            CheckpointError: there are some, and none is whole.
        """
        last = self._folder / LAST
        try:
            found = (last, load_checkpoint(last)) if last.exists() else None
            error: CheckpointError | None = None
        except CheckpointError as e:
            logger.warning("%s", e)
            found, error, self.last_is_damaged = None, e, True
            for path in checkpoints(self._folder):
                if path.samefile(last):
                    self._set_aside(path)
        for path in self._later_than(found):
            try:
                state = load_checkpoint(path)
            except CheckpointError as e:
                logger.warning("%s", e)
                error = error or e
                if "damaged" in str(e):  # and not one of another program, or of a later release
                    self._set_aside(path)
                continue
            if found is None and (self.last_is_damaged or not self._config.no_last_checkpoints):
                what = "is damaged" if self.last_is_damaged else "leads nowhere" if last.is_symlink() else "is missing"
                logger.warning("%s %s: resuming from %s instead, the newest whole file", last, what, path)
            elif found is not None:
                logger.warning("%s is older than %s, which is taken", last, path)
            return path, state
        if found is None and error is not None:
            raise CheckpointError(
                f"{error}; no other checkpoint in {self._folder} can be read; move them away to start anew"
            )
        return found

    def _later_than(self, found: tuple[Path, dict[str, Any]] | None) -> Iterator[Path]:
        """Yield the files that may be newer than the one found, newest first."""
        last = self._folder / LAST
        others = [path for path in checkpoints(self._folder) if path.name != LAST]
        if last.exists():  # other names of the last file are as whole, or as damaged
            others = [path for path in others if not path.samefile(last)]
        if found is not None:
            others = [path for path in others if _may_be_later(path, found[1])]
        marks = {path: peek(path) for path in others}
        limit = None if found is None else _order(Mark.of(found[1]), last)
        orders = {path: _order(mark or Mark("", 0, 0), path) for path, mark in marks.items()}
        for path in sorted(others, key=lambda path: (marks[path] is not None, orders[path]), reverse=True):
            if limit is None or (marks[path] is not None and orders[path] > limit):
                yield path

    def _set_aside(self, path: Path) -> None:
        """Rename a damaged file whose name would make it the newest of its kind."""
        if path.name in (LAST, BEST, PREVIOUS) or self._config.no_save:
            return
        with contextlib.suppress(OSError):
            os.replace(path, path.with_name(path.name + DAMAGED))

    def _next_number(self, newest: tuple[Path, dict[str, Any]] | None) -> int:
        """Count this start, in a small file that starts which saved nothing have written to as well."""
        counted, file = 0, self._folder / STARTS
        with contextlib.suppress(OSError, ValueError):
            counted = int(file.read_text())
        number = max(counted, Mark.of(newest[1]).start if newest else 0) + 1
        if not self._config.no_save:
            with contextlib.suppress(OSError):
                file.write_text(f"{number}\n")
        return number


def asked_beginning(config: CheckpointConfig, folder: Path) -> dict[str, Any]:
    """Return the flags about the beginning that are given, by name; files by their full path."""
    asked: dict[str, Any] = {}
    if config.restore_file == "":
        asked["restore_file"] = ""
    elif config.restore_file != LAST and Path(config.restore_file).resolve() != (folder / LAST).resolve():
        asked["restore_file"] = str(Path(config.restore_file).resolve())
    if config.finetune_from_model:
        asked["finetune_from_model"] = str(Path(config.finetune_from_model).resolve())
    for name in ("reset_optimizer", "reset_dataloader", "reset_meters"):  # a schedule has no state to be reset
        if getattr(config, name):
            asked[name] = True
    return asked


def is_same_beginning(asked: dict[str, Any], began: dict[str, Any]) -> bool:
    """Whether a run that `began` so is the one that is asked for; of two from one file, further flags do not count."""
    file = asked.get("restore_file")
    return asked == began or (file is not None and file == began.get("restore_file"))


def _resets(asked: dict[str, Any]) -> list[str]:
    return [name for name in asked if name.startswith("reset_")]


def _named(asked: dict[str, Any]) -> str:
    flags = [f"--{name.replace('_', '-')}" for name in asked]
    # A file without the state of a run means the same under both flags.
    model = "--finetune-from-model"
    return " and ".join(f"{model} (or --restore-file with a model)" if flag == model else flag for flag in flags)


def _word() -> str:
    return secrets.token_hex(4)


def _order(mark: Mark, path: Path) -> tuple[int, int, int]:
    """Return what sorts files by the order of writing; the clock counts only for those without a mark."""
    if mark.start:
        return mark.start, mark.num_updates, 0
    with contextlib.suppress(OSError):
        return 0, path.stat().st_mtime_ns, 0
    return 0, 0, 0


def _may_be_later(path: Path, state: Mapping[str, Any]) -> bool:
    """Whether a file's name allows that it is newer than a state: of many old files none needs to be opened."""
    by_update, by_epoch = INTERVAL.fullmatch(path.name), EPOCH.fullmatch(path.name)
    if by_update:
        return int(by_update[2]) > Mark.of(state).num_updates
    if by_epoch:
        return int(by_epoch[1]) >= int((state.get("iterator") or {}).get("epoch", 0))
    best = ONE_OF_BEST.fullmatch(path.name)
    return not (best and best[3] and int(best[3]) <= Mark.of(state).num_updates)
