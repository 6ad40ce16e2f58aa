"""One checkpoint file: written whole or not at all, and read only if its checksums hold.

What is *in* a checkpoint is the trainer's business; only `format_version` is checked here. Which
files are kept is `checkpoint_manager`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from w2v.checkpoint.torch_file import read_torch_file
from w2v.errors import CheckpointError
from w2v.files import atomic_path

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
TEMPORARY = ".tmp"
RETRIES = 3
RETRY_PAUSE = 1.0  # seconds; doubles with each retry


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

    _with_retries(path, duplicate)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours; tensors are on the CPU, in memory of their own.

    Training resumes from what is read here, so every byte is compared with its checksum. Programs that use
    a model open it through `w2v.convert` instead, which leaves what nobody asks for unread, and so unverified.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind or a later version.
    """
    # Not mapped: a run of weeks must not end because another program writes this file.
    state = read_torch_file(path, verify=True)
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
            temporary.unlink(missing_ok=True)  # a link is made beside no other file
            with atomic_path(path, temporary):
                produce(temporary)
            _sync_folder(path.parent)
            return
        except OSError as e:
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


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
