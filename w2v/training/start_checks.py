"""What a command line asks for and cannot have, or will not get: found before data or a model are touched."""

from __future__ import annotations

import os
from collections.abc import Iterator

from w2v.config.named_files import check_named_files
from w2v.config.sections import SMALLER_IS_BETTER
from w2v.errors import ConfigError
from w2v.optim import build_schedule
from w2v.training.compile import require_compiler
from w2v.training.options import TrainConfig
from w2v.training.progress import build_progress

STATS = ("prob_perplexity", "code_perplexity", "num_vars", "temp", "kmeans_loss")  # of the models here


def check_options(config: TrainConfig) -> None:
    """Check what holds between options of several parts, and whether the packages that they need are there.

    Raises:
        ConfigError: options do not go together.
        MissingPackageError: a package is not installed.
    """
    build_schedule(config.lr_scheduler.entry, config.lr_scheduler.config, config.optimization)
    split = config.dataset.train_split
    if "," in split and not config.task.entry.cls.joins_subsets:
        raise ConfigError(
            f"--train-subset {split}: --task {config.task.entry.name} trains on one subset; join the files"
        )
    if getattr(config.model.config, "w2v_args", None) is None:  # else --w2v-path is not read
        check_named_files(config.model.config)
    for path in (getattr(config.criterion.config, "wer_args", None) or ())[:2]:  # language model and lexicon
        if path and not os.path.exists(path):
            raise ConfigError(f"--wer-args: {path}: there is no such file")
    if config.common.compile:
        require_compiler()
    build_progress(config.common, is_master=True)  # imports what writes bars and numbers; nothing is written yet


def warnings_at_start(config: TrainConfig) -> list[str]:
    """Return one line for each setting that cannot do what it is there for.

    None of them is an error: such a run ends with exit code 0, and with a model that is not what was wanted.
    """
    return [*_short_run(config), *_schedule(config), *_best(config), *_pretraining(config)]


def _short_run(config: TrainConfig) -> Iterator[str]:
    limit, model = config.optimization.max_update, config.model.config
    if not limit and not config.optimization.max_epoch and not config.optimization.stop_time_hours:
        yield "the run never ends: give --max-update, --max-epoch or --stop-time-hours"
    if not limit:
        return
    frozen = getattr(model, "freeze_finetune_updates", 0)
    if frozen >= limit:
        yield (
            f"--freeze-finetune-updates {frozen} is not below --max-update {limit}: the encoder does not train in this "
            "run, only the output layer does"
        )
    after = config.dataset.validate_after_updates
    if after > limit and not config.dataset.disable_validation:
        yield (
            f"--validate-after-updates {after} is above --max-update {limit}: this run never validates, and writes no "
            "checkpoint_best.pt"
        )


def _best(config: TrainConfig) -> Iterator[str]:
    chosen = config.checkpoint
    if config.dataset.disable_validation and (chosen.patience > 0 or chosen.keep_best_checkpoints > 0):
        flag = "--patience" if chosen.patience > 0 else "--keep-best-checkpoints"
        yield f"{flag} goes by validations, and --disable-validation makes none: it does nothing in this run"
    if chosen.maximize_best_checkpoint_metric and chosen.best_checkpoint_metric in SMALLER_IS_BETTER:
        yield (
            f"--maximize-best-checkpoint-metric: the largest {chosen.best_checkpoint_metric} counts as the best, "
            "which is the worst model; leave the flag out"
        )


def _schedule(config: TrainConfig) -> Iterator[str]:
    limit, schedule = config.optimization.max_update, config.lr_scheduler.config
    peaks = (*(config.optimization.lr or ()), getattr(schedule, "max_lr", None) or 0.0)
    if max(peaks) == 0:
        yield "--lr 0: nothing trains"
    warm = getattr(schedule, "warmup_updates", 0) or getattr(schedule, "warmup_steps", 0)
    if getattr(schedule, "phase_ratio", None) is None and limit and warm >= limit:
        flag = "--warmup-updates" if hasattr(schedule, "warmup_updates") else "--warmup-steps"
        yield f"{flag} {warm} is not below --max-update {limit}: the learning rate never reaches --lr"
        return
    held = warm + (getattr(schedule, "hold_steps", None) or 0)
    is_counted = hasattr(schedule, "hold_steps") and schedule.phase_ratio is None
    if is_counted and limit and held >= limit:
        yield f"--warmup-steps and --hold-steps make {held}, --max-update is {limit}: the learning rate never falls"
    total = getattr(schedule, "total_num_update", None)
    if limit and total and total < limit:
        yield (
            f"--total-num-update {total:g} is below --max-update {limit}: from there on the learning rate is "
            "--end-learning-rate; leave the flag out"
        )
    if limit and total and total > 2 * limit:
        yield (
            f"--total-num-update {total:g} is above --max-update {limit}: the learning rate falls to "
            f"{1 - limit / total:.0%} of --lr only; leave the flag out"
        )


def _pretraining(config: TrainConfig) -> Iterator[str]:
    model, criterion = config.model.config, config.criterion.config
    quantizes = getattr(model, "quantize_targets", None)
    unknown = [key for key in getattr(criterion, "log_keys", ()) if key not in STATS]
    if unknown and hasattr(criterion, "infonce"):
        yield f"--log-keys: {unknown[0]!r} is none of {', '.join(STATS)}; it is logged only if the model gives it"
    if quantizes is None or not hasattr(criterion, "infonce"):
        return
    if not quantizes:
        yield "targets are not quantized, unlike in the published recipes: give --quantize-targets"
    elif not criterion.loss_weights or not criterion.loss_weights[0]:
        yield "nothing keeps the codebook from collapsing: give --loss-weights '[0.1, 10]'"
    if not criterion.infonce:
        yield "the loss is binary, unlike in the published recipes: give --infonce"
