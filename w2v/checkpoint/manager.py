"""The files of `--save-dir`: their names, which of them are kept, and which one a run goes on from.

Names and rules are the original's, with one file more: `checkpoint_previous.pt`, where nothing else would be left if
`checkpoint_last.pt` were damaged.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from w2v.checkpoint.file import TEMPORARY, copy_checkpoint, load_checkpoint, save_checkpoint
from w2v.checkpoint.folder_lock import FolderLock
from w2v.config.sections import CheckpointConfig
from w2v.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
BEST = "checkpoint_best.pt"
PREVIOUS = "checkpoint_previous.pt"


class CheckpointManager:
    """Which files are written and which are removed, and which of two scores is better.

    Args:
        config: the checkpoint section.

    Attributes:
        best: best score so far, None before the first validation.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self.folder = Path(config.save_dir)
        self.best: float | None = None
        self._lock = FolderLock(self.folder)
        self._last_is_damaged = False

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

    def is_better(self, score: float, best: float | None, *, or_equal: bool = False) -> bool:
        """Whether `score` beats `best` in the sense of `--maximize-best-checkpoint-metric`."""
        if best is None or (or_equal and score == best):
            return True
        return score > best if self.config.maximize_best_checkpoint_metric else score < best

    def better_of(self, score: float | None, best: float) -> float:
        """Return the better of a new score, which may be missing, and an old one."""
        return score if score is not None and self.is_better(score, best) else best

    def names(self, *, epoch: int, num_updates: int, end_of_epoch: bool, score: float | None) -> list[str]:
        """Return the files to be written now, in the order of the original; also takes note of the best score."""
        config = self.config
        names = []
        if end_of_epoch and not config.no_epoch_checkpoints and epoch % config.save_interval == 0:
            names.append(f"checkpoint{epoch}.pt")
        interval = config.save_interval_updates
        if not end_of_epoch and interval > 0 and num_updates % interval == 0:
            names.append(f"checkpoint_{epoch}_{num_updates}.pt")
        if score is not None and self.is_better(score, self.best, or_equal=True):
            self.best = score
            names.append(BEST)
            if config.keep_best_checkpoints > 0:
                names.append(f"checkpoint.best_{config.best_checkpoint_metric}_{score:.2f}.pt")
        if not config.no_last_checkpoints:
            names.append(LAST)
        return names

    def write(self, names: list[str], state: dict[str, Any]) -> list[Path]:
        """Write `state` under the first name, make the others the same file, and remove what is no longer kept.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        if not names:
            return []
        paths = [self.folder / name for name in names]
        if LAST in names and not self._last_is_damaged and (self.folder / LAST).exists():
            copy_checkpoint(self.folder / LAST, self.folder / PREVIOUS)
        save_checkpoint(paths[0], state)
        for path in paths[1:]:
            copy_checkpoint(paths[0], path)
        self._last_is_damaged = False
        self._prune(mid_epoch=any(re.fullmatch(r"checkpoint_\d+_\d+\.pt", name) for name in names))
        return paths

    def _prune(self, *, mid_epoch: bool) -> None:
        config = self.config
        if mid_epoch and config.keep_interval_updates > 0:
            self._keep(r"checkpoint_\d+_(\d+)\.pt", config.keep_interval_updates, largest=True)
        if config.keep_last_epochs > 0:
            self._keep(r"checkpoint(\d+)\.pt", config.keep_last_epochs, largest=True)
        if config.keep_best_checkpoints > 0:
            pattern = rf"checkpoint\.best_{re.escape(config.best_checkpoint_metric)}_(-?\d+\.?\d*)\.pt"
            self._keep(pattern, config.keep_best_checkpoints, largest=config.maximize_best_checkpoint_metric)
        previous = self.folder / PREVIOUS
        if previous.exists() and any(path.samefile(previous) for path in self._others(PREVIOUS)):
            previous.unlink()

    def _keep(self, pattern: str, number: int, *, largest: bool) -> None:
        found = []
        for path in self.folder.iterdir():
            match = re.fullmatch(pattern, path.name)
            if match:
                found.append((float(match[1]), path))
        found.sort(key=lambda item: item[0], reverse=largest)
        for _, path in found[number:]:
            path.unlink(missing_ok=True)

    def _others(self, name: str) -> list[Path]:
        return [path for path in self.folder.glob("checkpoint*.pt") if path.name != name]

    def find(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the checkpoint to go on from, with its path; None for a fresh start.

        If `checkpoint_last.pt` is damaged, the newest other whole checkpoint of the folder is taken.

        Raises:
            CheckpointError: `--restore-file` is missing or damaged, or no checkpoint of the folder is whole.
        """
        last = self.folder / LAST
        if self.config.restore_file != LAST:
            path = Path(self.config.restore_file)
            if last.exists() and last.resolve() != path.resolve():
                logger.warning("going on from --restore-file %s, not from %s", path, last)
            return path, load_checkpoint(path)
        if not last.exists():
            return None
        try:
            return last, load_checkpoint(last)
        except CheckpointError as e:
            logger.warning("%s", e)
            self._last_is_damaged = True
            return self._newest_whole(e)

    def _newest_whole(self, error: CheckpointError) -> tuple[Path, dict[str, Any]]:
        last = self.folder / LAST
        # Other names of the damaged file are as damaged.
        others = [path for path in self._others(LAST) if not path.samefile(last)]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                state = load_checkpoint(path)
            except CheckpointError as e:
                logger.warning("%s", e)
                continue
            logger.warning("going on from %s instead", path)
            return path, state
        raise CheckpointError(f"{error}; no other checkpoint in {self.folder} can be read; move it away to start anew")
