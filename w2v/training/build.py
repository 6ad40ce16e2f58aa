"""From configuration to a trainer: task, model, criterion, optimizer and the number of batches per update."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import torch

from w2v import distributed
from w2v.config import to_plain
from w2v.config.sections import OptimizationConfig
from w2v.errors import ConfigError
from w2v.optim import build_optimizer, build_schedule
from w2v.tasks.base import Task
from w2v.training.compile import compile_blocks
from w2v.training.fsdp import parallel_model
from w2v.training.options import TrainConfig
from w2v.training.start_checks import warnings_at_start
from w2v.training.trainer import Trainer

logger = logging.getLogger(__name__)


def build_trainer(config: TrainConfig, device: torch.device) -> Trainer:
    """Build everything that a run needs.

    Raises:
        W2vError: something named in the configuration does not fit or cannot be read.
    """
    optimization = _with_accumulation(config)
    schedule = build_schedule(config.lr_scheduler.entry, config.lr_scheduler.config, optimization)
    for warning in warnings_at_start(config):
        logger.warning("%s", warning)
    # The weights of all ranks are drawn from the same seed, so nothing has to be sent between them.
    torch.manual_seed(config.common.seed)
    task: Task = config.task.entry.cls(config.task.config, config.common.seed)
    # The model before the data: it says how short a clip may be.
    model = task.build_model(config.model.entry, config.model.config)
    criterion = config.criterion.entry.cls(config.criterion.config)
    # What would end the first validation, hours from now, ends the start.
    validates = not config.dataset.disable_validation
    if validates:
        _check_metric(config, task.valid_value_names(criterion))
    task.load_dataset(config.dataset.train_split)
    for split in config.dataset.valid_subset.split(",") if validates else ():
        task.prepare_validation(split.strip(), config.dataset, criterion)
    plain = config.to_plain()
    # The model completes its options while it is built (a fine-tuned one takes in its encoder's).
    completed = getattr(model, "config", config.model.config)
    plain["model"] = {"_name": config.model.entry.name, **to_plain(completed)}
    if config.common.user_dir is not None:
        # The checkpoint must lead to the plugin from any folder.
        plain["common"]["user_dir"] = str(Path(config.common.user_dir).expanduser().resolve())
    # In place and before it is shared: names and parameters stay, and the trainer knows of neither.
    if config.common.compile:
        compile_blocks(model, config.common.compile_mode)
    return Trainer(
        task,
        parallel_model(model, device, config.distributed_training),
        criterion,
        build_optimizer(config.optimizer.entry, config.optimizer.config, model.parameters()),
        schedule,
        config.common,
        config.dataset,
        optimization,
        config.checkpoint,
        plain,
        device=device,
        sample_rate=getattr(config.task.config, "sample_rate", None),
    )


def _check_metric(config: TrainConfig, known: frozenset[str] | None) -> None:
    metric = config.checkpoint.best_checkpoint_metric
    if known is not None and metric not in (names := {*known, "wps", "wpb", "bsz"}):
        raise ConfigError(f"--best-checkpoint-metric must be one of {', '.join(sorted(names))}, got {metric!r}")


def _with_accumulation(config: TrainConfig) -> OptimizationConfig:
    """Return the optimization section with the `--update-freq` that `--batch-audio` means on our number of ranks."""
    seconds, max_tokens = config.optimization.batch_audio, config.dataset.max_tokens
    if seconds is None:
        return config.optimization
    rate = getattr(config.task.config, "sample_rate", None)
    if rate is None:
        raise ConfigError(f"--batch-audio needs a task that reads audio, got --task {config.task.entry.name}")
    if max_tokens is None or config.dataset.batch_size is not None:
        raise ConfigError("--batch-audio needs --max-tokens, and no --batch-size: batches must have a size in samples")
    ranks = distributed.world_size()
    batches = batches_per_update(seconds * rate, max_tokens, ranks)
    found = batches * max_tokens / rate
    logger.info(
        "an update takes up to %.1f minutes of audio (--batch-audio: %.1f): %d batches, --update-freq %d on %d ranks",
        found / 60, seconds / 60, batches, batches // ranks, ranks,
    )  # fmt: skip
    if abs(found / seconds - 1) > 0.1:
        logger.warning("--max-tokens %d would give the size asked for", seconds * rate / batches)
    return replace(config.optimization, batch_audio=None, update_freq=(batches // ranks,))


COMMON_RANKS = 4  # runs on 1, 2 and 4 ranks are to make the same updates


def batches_per_update(samples: float, max_tokens: int, world_size: int) -> int:
    """Return how many batches, over all ranks, come nearest to `samples`.

    A batch counts as full. The number is rounded to a multiple of 4 (of 2 or 1 where fewer than 4 or 2 would do), or
    of `world_size` where that does not divide it; so it is the same on 1, 2 and 4 ranks, and so are the updates.

    Args:
        samples: wanted size of an update.
        max_tokens: most samples of a batch.
        world_size: number of ranks.

    Raises:
        ConfigError: `samples` do not suffice for one batch on every rank.
    """
    wanted = samples / max_tokens
    if wanted < world_size:
        raise ConfigError(
            f"--batch-audio must be at least one batch for each of {world_size} ranks, got {samples:.0f} samples for "
            f"batches of --max-tokens {max_tokens}; lower --max-tokens to {int(samples / world_size)}"
        )
    # Multiples of 4 divide among 1, 2 and 4 ranks.
    unit = next(unit for unit in (COMMON_RANKS, COMMON_RANKS // 2, 1) if wanted >= unit)
    if unit % world_size:
        unit = world_size
    return max(1, math.floor(wanted / unit + 0.5)) * unit
