"""Checkpoints: written whole or not at all, read without unpickling classes, named as in the original.

A file is written beside its target, flushed to the disk and renamed, so that a full disk or a kill leaves the old
file as it was. What is *in* a checkpoint is the trainer's business; only `format_version` is checked here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from w2v.errors import CheckpointError, ConfigError
from w2v.sections import CheckpointConfig
from w2v.torch_file import read_torch_file

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
LAST = "checkpoint_last.pt"
BEST = "checkpoint_best.pt"
TEMPORARY = ".tmp"
RETRIES = 3
RETRY_PAUSE = 1.0  # seconds; doubles with each retry


# ---------------------------------------------------------------------------------------------- one file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`, whole or not at all.

    Args:
        path: target; an older file there stays until the new one is complete.
        state: plain data and tensors; `format_version` is added.

    Raises:
        CheckpointError: the disk is full or not writable, after some retries.
    """
    save_torch_file(path, {"format_version": FORMAT_VERSION, **state})


def save_torch_file(path: Path, content: Any, pickle_module: Any = pickle) -> None:
    """Write what `torch.save` takes, whole or not at all.

    Args:
        path: target; an older file there stays until the new one is complete.
        content: what to write.
        pickle_module: has the `Pickler` to write it with.

    Raises:
        CheckpointError: the disk is full or not writable, after some retries.
    """
    _with_retries(path, lambda temporary: _write(temporary, content, pickle_module))


def copy_checkpoint(source: Path, path: Path) -> None:
    """Make `path` the same file as `source`: a hard link, or a copy where the file system has no links.

    Raises:
        CheckpointError: the disk is full or not writable, after some retries.
    """

    def duplicate(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())

    _with_retries(path, duplicate)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours; tensors are on the CPU and may be windows on the file (copy before changing them).

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind or a later version.
    """
    # Mapped: weights that nobody asks for (the optimizer's, in inference) are never read. Safe here, because a
    # checkpoint is only ever replaced by a rename, never changed in place.
    state = read_torch_file(path)
    if not isinstance(state, dict) or "format_version" not in state:
        raise CheckpointError(
            f"{path}: is no checkpoint of w2v: it has no format_version; w2v-convert makes one of a fairseq file"
        )
    check_version(path, state)
    return state


def check_version(path: Path, state: Mapping[str, Any]) -> None:
    """Check that this release can read a checkpoint of ours.

    Raises:
        CheckpointError: it was written by a later one.
    """
    version = state["format_version"]
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(f"{path}: has format_version {version}; this release reads up to {FORMAT_VERSION}")


def _with_retries(path: Path, produce: Callable[[Path], None]) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    for attempt in range(RETRIES):
        try:
            temporary.unlink(missing_ok=True)
            produce(temporary)
            os.replace(temporary, path)
            _sync_folder(path.parent)
            return
        except OSError as e:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if attempt == RETRIES - 1:
                kept = "; the file that was there before is untouched" if path.exists() else ""
                raise CheckpointError(f"{path}: cannot be written: {e.strerror or e}{kept}") from e
            logger.warning("%s: cannot be written: %s; trying again", path, e.strerror or e)
            time.sleep(RETRY_PAUSE * 2**attempt)


class _Recorder:
    """A file that remembers why writing failed: torch turns any such failure into a RuntimeError."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as e:
            self.error = e
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(path: Path, content: Any, pickle_module: Any) -> None:
    with open(path, "wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save(content, recorder, pickle_module=pickle_module)  # type: ignore[arg-type]
        except RuntimeError:
            if recorder.error is not None:
                raise recorder.error from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


# --------------------------------------------------------------------------------------- the save folder


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

    def prepare(self) -> None:
        """Make the folder, check that it can be written to, and remove what a killed run left half-written.

        Raises:
            ConfigError: `--save-dir` cannot be written to.
        """
        if self.config.no_save:
            return
        probe = self.folder / f"write-test{TEMPORARY}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            for leftover in self.folder.glob(f"*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)
        except OSError as e:
            raise ConfigError(f"--save-dir {self.config.save_dir!r} cannot be written to: {e.strerror or e}") from e

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
        save_checkpoint(paths[0], state)
        for path in paths[1:]:
            copy_checkpoint(paths[0], path)
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

    def _keep(self, pattern: str, number: int, *, largest: bool) -> None:
        found = []
        for path in self.folder.iterdir():
            match = re.fullmatch(pattern, path.name)
            if match:
                found.append((float(match[1]), path))
        found.sort(key=lambda item: item[0], reverse=largest)
        for _, path in found[number:]:
            path.unlink(missing_ok=True)

    def find(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the checkpoint to go on from, with its path; None for a fresh start.

        If `checkpoint_last.pt` cannot be read, the newest other readable checkpoint of the folder is taken.

        Raises:
            CheckpointError: `--restore-file` is missing, or no checkpoint of the folder can be read.
        """
        if self.config.restore_file != LAST:
            path = Path(self.config.restore_file)
            if (self.folder / LAST).exists() and (self.folder / LAST).resolve() != path.resolve():
                logger.warning("going on from --restore-file %s, not from %s", path, self.folder / LAST)
            return path, load_checkpoint(path)
        path = self.folder / LAST
        if not path.exists():
            return None
        try:
            return path, load_checkpoint(path)
        except CheckpointError as e:
            logger.warning("%s", e)
            return self._newest_readable(e)

    def _newest_readable(self, error: CheckpointError) -> tuple[Path, dict[str, Any]]:
        others = [path for path in self.folder.glob("checkpoint*.pt") if path.name != LAST]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                state = load_checkpoint(path)
            except CheckpointError as e:
                logger.warning("%s", e)
                continue
            logger.warning("going on from %s instead", path)
            return path, state
        raise CheckpointError(f"{error}; no other checkpoint in {self.folder} can be read; move it away to start anew")
