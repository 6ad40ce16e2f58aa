"""The files of `--save-dir`: their names, and which of them are kept. From which one a start begins is `start`'s.

Names are the original's, with one file more: `checkpoint_previous.pt`, where nothing else would be left if
`checkpoint_last.pt` were damaged. Everything due at an update is written at that update, whatever else is written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from w2v.checkpoint.best import BestScores
from w2v.checkpoint.file import TEMPORARY, copy_checkpoint, save_checkpoint
from w2v.checkpoint.folder_lock import FolderLock
from w2v.checkpoint.start import (
    BEST,
    EPOCH,
    INTERVAL,
    LAST,
    ONE_OF_BEST,
    PREVIOUS,
    Mark,
    Start,
    StartFinder,
    checkpoints,
    peek,
)  # fmt: skip
from w2v.config.sections import CheckpointConfig
from w2v.errors import ConfigError

logger = logging.getLogger(__name__)


class CheckpointManager:
    """Which files are written and which are removed.

    Args:
        config: the checkpoint section.

    Attributes:
        scores: the best validations so far.
        start: how this start of the run has begun.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self.folder = Path(config.save_dir)
        self.scores = BestScores(config.best_checkpoint_metric, config.larger_is_better, config.keep_best_checkpoints)
        self.start = Start()
        self._lock = FolderLock(self.folder)
        self._last_is_damaged = False
        self._marks: dict[str, Mark] = {}

    def prepare(self) -> None:
        """Make the folder and lock it until `close`; remove what a killed run left half-written.

        Raises:
            ConfigError: `--save-dir` cannot be written to, or another run is using it.
        """
        if self.config.no_save:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()  # which also finds out whether the folder can be written to
            for leftover in self.folder.glob(f"*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)
        except OSError as e:
            raise ConfigError(f"--save-dir {self.config.save_dir!r} cannot be written to: {e.strerror or e}") from e

    def close(self) -> None:
        """Leave the folder to other runs."""
        self._lock.release()

    def find_start(self) -> Start:
        """Return how this start begins (see `start`); for rank 0.

        Raises:
            CheckpointError: `--restore-file` is missing or damaged, or no checkpoint of the folder is whole.
        """
        finder = StartFinder(self.config, self.folder)
        self.start = finder.find()
        self._last_is_damaged = finder.last_is_damaged
        return self.start

    def names(self, *, epoch: int, num_updates: int, end_of_epoch: bool, score: float | None = None,
              is_end: bool = False) -> list[str]:  # fmt: skip
        """Return the files to be written now, in the order of the original; also takes note of the score.

        Args:
            epoch: the epoch of the last update.
            num_updates: updates done.
            end_of_epoch: whether that was the epoch's last.
            score: what a validation has just found, if there was one.
            is_end: whether training ends here: then the state is written under one name at least.
        """
        config = self.config
        names = []
        if end_of_epoch and not config.no_epoch_checkpoints and epoch % config.save_interval == 0:
            names.append(f"checkpoint{epoch}.pt")
        interval = config.save_interval_updates
        by_update = f"checkpoint_{epoch}_{num_updates}.pt"
        # Differs from the original, which leaves it out at the end of an epoch.
        if interval > 0 and num_updates % interval == 0:
            names.append(by_update)
        if score is not None:
            is_best, is_kept = self.scores.note(score, num_updates)
            names += [BEST] * is_best + [self._best_name(score, num_updates)] * is_kept
        if not config.no_last_checkpoints:
            names.append(LAST)
        # Without checkpoint_last.pt, the end of a run would otherwise be in no file.
        return names or [by_update] * is_end

    def is_worth_a_file(self, score: float | None) -> bool:
        """Whether a validation has to be saved although no checkpoint is due: it is the best, or one of the N best."""
        if score is None:
            return False
        kept = self.scores.kept
        keep = self.config.keep_best_checkpoints
        return self.scores.is_better(score, self.scores.best) or (
            keep > 0 and (len(kept) < keep or self.scores.is_better(score, kept[-1][0]))
        )

    def _best_name(self, score: float, update: int) -> str:
        # The original's name has no update in it, so that equal scores in two decimals overwrite each other.
        return f"checkpoint.best_{self.config.best_checkpoint_metric}_{score:.2f}_{update}.pt"

    def write(self, names: list[str], state: dict[str, Any]) -> list[Path]:
        """Write `state` under the first name, make the others the same file, and remove what is no longer kept.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        if not names:
            return []
        paths = [self.folder / name for name in names]
        last = self.folder / LAST
        if LAST in names and not self._last_is_damaged and last.exists():
            copy_checkpoint(last, self.folder / PREVIOUS)
        save_checkpoint(paths[0], state)
        for path in paths[1:]:
            copy_checkpoint(paths[0], path)
        if LAST in names:
            self._last_is_damaged = False
        elif last.is_file():
            last.unlink(missing_ok=True)  # --no-last-checkpoints: it would be taken for the newest
        self._marks.update(dict.fromkeys(names, Mark.of(state)))
        self._prune()
        return paths

    # ------------------------------------------------------------------------------------------ what is kept

    def complete(self, start: Start) -> None:
        """Finish what a killed start was doing to the folder when it had written the file that is resumed from.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        if self.config.no_save or start.path is None or start.state is None:
            return
        if start.path.parent == self.folder and start.path.name not in (LAST, PREVIOUS):
            for name in start.state["trainer"].get("names", ()):
                target = self.folder / name
                if peek(target) != Mark.of(start.state):
                    copy_checkpoint(start.path, target)
        self._forget_missing()
        self._prune()

    def _forget_missing(self) -> None:
        """Leave out scores whose files are gone, so that later validations can take their place."""
        scores = self.scores
        names = {path.name for path in checkpoints(self.folder)}
        for score, update in list(scores.kept):
            name = self._best_name(score, update)
            if (name not in names or peek(self.folder / name) is None) and not self._recover(name, update):
                logger.warning("%s is missing or cut short, and is left out of the best", name)
                scores.kept.remove((score, update))
        if scores.best is None:
            return
        mark = peek(self.folder / BEST)
        is_there = mark is not None and (scores.best_update is None or mark.num_updates == scores.best_update)
        if not is_there and not self._recover(BEST, scores.best_update):
            logger.warning(
                "%s of the best score so far, %g, is not in %s; the best is looked for anew", BEST, scores.best,
                self.folder,
            )  # fmt: skip
            scores.best = scores.best_update = None

    def _recover(self, name: str, update: int | None) -> bool:
        """Write a lost file again from another one of the same update; return whether there is one."""
        for path in checkpoints(self.folder) if update is not None else []:
            mark = peek(path) if path.name != name else None
            if mark is not None and mark.num_updates == update:
                copy_checkpoint(path, self.folder / name)
                return True
        return False

    def _prune(self) -> None:
        config = self.config
        self._keep(lambda name: bool(INTERVAL.fullmatch(name)), config.keep_interval_updates)
        self._keep(lambda name: bool(EPOCH.fullmatch(name)), config.keep_last_epochs)
        if config.keep_best_checkpoints > 0:
            kept = {self._best_name(*entry) for entry in self.scores.kept}
            for path in checkpoints(self.folder):
                found = ONE_OF_BEST.fullmatch(path.name)
                # Files of the original's kind of name are of before version 0.9, whose scores are not known.
                if found and found[1] == config.best_checkpoint_metric and found[3] and path.name not in kept:
                    path.unlink(missing_ok=True)
        previous = self.folder / PREVIOUS
        others = [path for path in checkpoints(self.folder) if path.name != PREVIOUS]
        if previous.exists() and any(path.samefile(previous) for path in others):
            previous.unlink()

    def _keep(self, is_one: Callable[[str], bool], number: int) -> None:
        """Remove all but the newest files of a kind, by the order of writing, which numbers in names may not tell."""
        if number <= 0:
            return
        found = [path for path in checkpoints(self.folder) if is_one(path.name)]
        if len(found) <= number:
            return
        found.sort(key=self._written, reverse=True)
        for path in found[number:]:
            path.unlink(missing_ok=True)
            self._marks.pop(path.name, None)

    def _written(self, path: Path) -> tuple[int, int, int]:
        mark = self._marks.get(path.name) or peek(path) or Mark("", 0, 0)
        self._marks[path.name] = mark
        return mark.start, mark.num_updates, int(re.findall(r"\d+", path.name)[-1])
