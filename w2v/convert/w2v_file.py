"""Writes a model, wherever it is from, as a checkpoint of w2v."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2v.checkpoint.file import save_checkpoint
from w2v.convert.model_file import ModelFile
from w2v.version import __version__


def write_own(path: Path, file: ModelFile, training: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint that `load_model`, `--path` and `--w2v-path` take.

    Args:
        path: target.
        file: the model.
        training: the state of a run, which `--restore-file` resumes; None: the model alone.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    task: dict[str, Any] = {} if file.symbols is None else {"dictionary": list(file.symbols)}
    save_checkpoint(
        path,
        {
            "w2v_version": __version__,
            "config": file.config,
            "model": dict(file.state),
            "task": task,
            "trainer": {"num_updates": file.num_updates, "score": file.score},
            **(training or {}),
        },
    )
