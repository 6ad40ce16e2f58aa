"""From configuration to objects: a run to train, or a model read from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from w2v.checkpoint import load_checkpoint
from w2v.config import to_plain
from w2v.errors import CheckpointError, ConfigError
from w2v.models.base import W2vModel
from w2v.optim import build_optimizer, build_schedule
from w2v.options import TrainConfig, config_from_plain
from w2v.plugins import import_user_dir
from w2v.tasks.base import Task
from w2v.trainer import Trainer


def build_trainer(config: TrainConfig, device: torch.device) -> Trainer:
    """Build everything that a run needs.

    Raises:
        W2vError: something named in the configuration does not fit or cannot be read.
    """
    torch.manual_seed(config.common.seed)
    task: Task = config.task.entry.cls(config.task.config, config.common.seed)
    # The model first: it says how short a clip may be.
    model = task.build_model(config.model.entry, config.model.config)
    task.load_dataset(config.dataset.train_subset)
    plain = config.to_plain()
    # The model completes its options while it is built (a fine-tuned one takes in its encoder's).
    completed = getattr(model, "config", config.model.config)
    plain["model"] = {"_name": config.model.entry.name, **to_plain(completed)}
    return Trainer(
        task,
        model,
        config.criterion.entry.cls(config.criterion.config),
        build_optimizer(config.optimizer.entry, config.optimizer.config, model.parameters()),
        build_schedule(config.lr_scheduler.entry, config.lr_scheduler.config, config.optimization),
        config.common,
        config.dataset,
        config.distributed_training,
        config.optimization,
        config.checkpoint,
        plain,
        device=device,
        sample_rate=getattr(config.task.config, "sample_rate", None),
    )


@dataclass(frozen=True)
class LoadedModel:
    """A model read from a checkpoint.

    Attributes:
        model: in evaluation mode, on the CPU.
        task: knows the dictionary (`task.dictionary`) and how audio is read (`task.config`).
        config: the configuration it was trained with, plain data by section.
        num_updates: how long it was trained.
    """

    model: W2vModel
    task: Task
    config: dict[str, Any]
    num_updates: int


def load_model(
    path: str | Path, *, overrides: Mapping[str, Any] | None = None, user_dir: str | None = None
) -> LoadedModel:
    """Read a model with all that is needed to use it; no other file is opened.

    Args:
        path: checkpoint written by `w2v-train`.
        overrides: options of the model or the task to change, by name.
        user_dir: the plugin it was trained with, if that has moved.

    Raises:
        CheckpointError: the file cannot be read, or its tensors do not fit its configuration.
        ConfigError: an override names no option.
    """
    checkpoint = load_checkpoint(Path(path))
    plain = {section: dict(values) for section, values in checkpoint["config"].items()}
    trained_with = plain.get("common", {}).get("user_dir")
    if user_dir:
        import_user_dir(user_dir)
    elif trained_with and Path(trained_with).exists():
        import_user_dir(trained_with)
    _override(plain, overrides or {})
    hint = f"; the checkpoint was trained with --user-dir {trained_with}" if trained_with else ""
    config = config_from_plain(plain, str(path), hint)
    task: Task = config.task.entry.cls(config.task.config, config.common.seed)
    task.load_state_dict(checkpoint["task"])
    model = task.build_model(config.model.entry, config.model.config)
    load_tensors(model, checkpoint["model"], str(path))
    num_updates = int(checkpoint.get("trainer", {}).get("num_updates", 0))
    model.set_num_updates(num_updates)
    return LoadedModel(model.eval(), task, plain, num_updates)


def load_tensors(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Load tensors by name, all of them and no others.

    Raises:
        CheckpointError: names are missing, unknown, or of another shape; they are listed.
    """
    wanted = model.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in state]
    problems += [f"unknown {name}" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{where}: the tensors do not fit the configuration: {', '.join(problems[:5])}{more}")
    model.load_state_dict(dict(state))


def _override(plain: dict[str, dict[str, Any]], overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        owners = [section for section in ("model", "task") if name in plain.get(section, {})]
        if not owners:
            raise ConfigError(f"--model-overrides: neither model nor task has an option {name!r}")
        plain[owners[0]][name] = value
