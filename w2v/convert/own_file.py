"""Writes a model, wherever it is from, as a checkpoint of w2v."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import w2v
from w2v.checkpoint import save_checkpoint
from w2v.convert.model_file import ModelFile


def write_own(path: Path, file: ModelFile) -> None:
    """Write a checkpoint that `load_model`, `--path` and `--w2v-path` take.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    task: dict[str, Any] = {} if file.symbols is None else {"dictionary": list(file.symbols)}
    save_checkpoint(
        path,
        {
            "w2v_version": w2v.__version__,
            "config": file.config,
            "model": dict(file.state),
            "task": task,
            "trainer": {"num_updates": file.num_updates},
        },
    )
