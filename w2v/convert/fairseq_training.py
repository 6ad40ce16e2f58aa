"""The state of a run of the original, in the form of ours: updates, Adam's moments, the epoch, the loss scale.

The original numbers the parameters of its optimizer as the model yields them; its files list the tensors in that order,
buffers and shared tensors among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.checkpoint.torch_file import read_torch_file
from w2v.checkpoint.unpickle import plain_data
from w2v.convert.model_file import ModelFile
from w2v.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIMIZER = "adam"


def training_state(file: ModelFile, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    """Return what `w2v-train` resumes from: the sections of a checkpoint of ours that a model alone does not have.

    The position within an epoch is left behind: batches are drawn in another way here, so the epoch starts again. So is
    the best score.

    Args:
        file: the model; its tensors are in the order of the file.
        shapes: of the parameters of the model that is built from it, by name, in the order of its `parameters()`.

    Raises:
        CheckpointError: the file holds no state of a run of the original, or one of another optimizer or model.
    """
    content = read_torch_file(Path(file.path), mapped=True) if Path(file.path).is_file() else None
    saved = content.get("last_optimizer_state") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(saved, dict) or not saved.get("state"):
        raise CheckpointError(f"{file.path}: holds no state of an optimizer of fairseq; leave out --training-state")
    if (name := _optimizer(content)) != OPTIMIZER:
        raise CheckpointError(f"{file.path}: was trained with {name!r}; only the state of {OPTIMIZER} can be taken")
    parts = {name: tensor.shape for name, tensor in file.state.items() if name in shapes}
    entries = _entries(file.path, saved["state"], saved["param_groups"], parts)
    numbers = {name: number for number, name in enumerate(shapes)}
    state = {numbers[name]: entry for name, entry in entries.items()}
    iterator = content.get("extra_state", {}).get("train_iterator") or {}
    scale = saved.get("loss_scale")
    counters = {"attempt": 0, "last_overflow": -1, "last_change": -1, "overflows": 0}
    return {
        "config": {**file.config, "optimizer": {"_name": OPTIMIZER}},
        "optimizer": {"state": dict(sorted(state.items())), "param_groups": [{"params": list(range(len(shapes)))}]},
        "scaler": None if scale is None else {"scale": float(scale), **counters},
        "iterator": {"epoch": int(iterator.get("epoch", 1)), "position": 0, "num_batches": 0, "batches": None},
    }


def _optimizer(content: Mapping[str, Any]) -> str:
    """Return the `--optimizer` of the run."""
    config = plain_data(content.get("cfg") or content.get("args"))
    values = config.get("optimizer") if isinstance(config, dict) else None
    return str(values.get("_name") if isinstance(values, dict) else values)


def _entries(
    where: str, state: Mapping[int, Mapping[str, Any]], groups: Sequence[Mapping[str, Any]],
    parts: Mapping[str, torch.Size],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Return step and moments by parameter; with `--fp16` the original kept those of all parameters in one row."""
    numbers = [number for group in groups for number in group["params"]]
    sizes = {name: math.prod(shape) for name, shape in parts.items()}
    first = state.get(0, {}).get(MOMENTS[0])
    if len(numbers) == 1 and isinstance(first, Tensor) and first.numel() == sum(sizes.values()):
        rows = {moment: state[0][moment].split(list(sizes.values())) for moment in MOMENTS}
        return {
            name: _entry(state[0]["step"], {moment: rows[moment][place] for moment in MOMENTS}, parts[name])
            for place, name in enumerate(parts)
        }
    if len(numbers) != len(parts):
        raise CheckpointError(
            f"{where}: its optimizer has {len(numbers)} parameters, its model {len(parts)}; leave out --training-state"
        )
    entries = {}
    for number, name in zip(numbers, parts, strict=True):
        entry = state.get(number)  # none where it never had a gradient, as in frozen parts
        if entry is None:
            continue
        shape = tuple(entry[MOMENTS[0]].shape)
        if shape != tuple(parts[name]):
            raise CheckpointError(
                f"{where}: its optimizer's state {number} has shape {shape}, {name} has {tuple(parts[name])}"
            )
        entries[name] = _entry(entry["step"], entry, parts[name])
    return entries


def _entry(step: Any, moments: Mapping[str, Tensor], shape: torch.Size) -> dict[str, Any]:
    return {"step": int(step), **{moment: moments[moment].reshape(shape).float() for moment in MOMENTS}}
