"""The training loop: micro-batches to updates, validation, checkpoints, reasons to stop.

File names are `checkpoint_manager`'s, log lines `training_log`'s, intervals `cadence`'s, collectives `distributed`'s,
want of memory `memory`'s, learning rates `optim`'s, and what a batch means is the task's. There are no hooks: what a
model needs to know about progress it is told through `set_num_updates`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch

from w2v import distributed
from w2v.checkpoint.file import load_checkpoint
from w2v.checkpoint.manager import LAST, CheckpointManager
from w2v.config.sections import CheckpointConfig, CommonConfig, DatasetConfig, DistributedConfig, OptimizationConfig
from w2v.criterions.base import Criterion
from w2v.errors import CheckpointError, ConfigError, DataError, TrainingError, W2vError
from w2v.models.base import W2vModel
from w2v.optim.base import Optimizer, Schedule
from w2v.optim.gradients import clip_coefficient, scale_gradients
from w2v.optim.loss_scaler import build_loss_scaler
from w2v.tasks.base import Task
from w2v.training.compile import compile_blocks
from w2v.training.fsdp import parallel_model
from w2v.training.intervals import Cadence, Patience, Plan
from w2v.training.log import TrainingLog
from w2v.training.signals import Interrupt
from w2v.training.update_report import SkipCounter, UpdateReport
from w2v.training.validation import Validator
from w2v.types import Batch
from w2v.version import __version__

logger = logging.getLogger(__name__)

MicroBatches = list[tuple[Batch, bool]]
INTERRUPTED = "a signal asked for it"


class Trainer:
    """Trains `model` on `task` until there is a reason to stop.

    Args:
        task: gives batches and losses.
        model: moved to `device` here.
        criterion: the loss.
        optimizer: over all parameters of `model`.
        schedule: learning rate.
        common, dataset, distributed_config, optimization, checkpoint: the root sections.
        config_plain: configuration by section, as plain data, for the checkpoint.
        device: where to train, as returned by `distributed.setup`.
        sample_rate: samples per second, if batches hold audio; then the bar shows audio-seconds per second.
    """

    def __init__(
        self,
        task: Task,
        model: W2vModel,
        criterion: Criterion,
        optimizer: Optimizer,
        schedule: Schedule,
        common: CommonConfig,
        dataset: DatasetConfig,
        distributed_config: DistributedConfig,
        optimization: OptimizationConfig,
        checkpoint: CheckpointConfig,
        config_plain: dict[str, Any],
        *,
        device: torch.device | None = None,
        sample_rate: int | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.model, self.criterion = model, criterion.to(self.device)
        if common.compile:
            compile_blocks(model, common.compile_mode)
        self._parallel = parallel_model(model, self.device, distributed_config)
        self._parallel.attach_optimizer(optimizer)
        self.common, self.dataset = common, dataset
        self.optimization, self.checkpoint = optimization, checkpoint
        self.config_plain = config_plain
        self.batches: Any = task.train_batches(dataset.train_subset, dataset)
        self.manager = CheckpointManager(checkpoint)
        self.log = TrainingLog(self.criterion, common, optimization, self.device, model.codebook, sample_rate)
        self.num_updates = 0
        self.skips = SkipCounter()
        self._scaler = build_loss_scaler(common, optimization, distributed.world_size())
        self._evaluator = Validator(task, self.criterion, self.device, common)
        self._cadence = Cadence(common, dataset, checkpoint)
        self._patience = Patience(checkpoint.patience, self.manager.is_better)
        self._evaluator.memory.is_sharded = self._parallel.is_sharded
        self._report: UpdateReport | None = None
        # The loss scale decides about the very next update; and a CPU has nothing queued.
        self._settle_at_once = self._scaler is not None or self.device.type == "cpu"
        self._interrupt = Interrupt()
        self._interrupted = self._time_up = False
        self._pending_validation: Plan | None = None

    def train(self) -> str:
        """Restore, train, validate and save until there is a reason to stop, which is returned.

        Raises:
            TrainingError: training cannot go on; the last good checkpoint is left as it was.
            CheckpointError: a checkpoint cannot be read, or not be written.
        """
        begin = time.perf_counter()
        with self._interrupt, contextlib.ExitStack() as stack:
            for part in (self.manager, self.log, self.batches):
                stack.callback(part.close)
            if distributed.is_master():
                self.manager.prepare()
            distributed.barrier()
            self.restore()
            logger.info("training on %d devices (%s)", distributed.world_size(), self.device.type)
            reason = self._run_pending_validation() or self.stop_reason(end_of_epoch=False)
            while not reason:
                reason = self.train_epoch()
        logger.info("stopping: %s", reason)
        logger.info("done training in %.1f seconds", time.perf_counter() - begin)
        distributed.barrier()
        return reason

    def train_epoch(self) -> str:
        """Train to the end of the epoch, from the saved position on; return the reason to stop, or nothing."""
        if self.batches.end_of_epoch():
            self.batches.advance_epoch()
        accumulated = self.accumulation(self.batches.epoch)
        size = self.batches.num_updates(accumulated)
        if size == 0:
            raise DataError(f"--train-subset {self.dataset.train_subset}: there is not a single batch to train on")
        done = math.ceil(self.batches.position / (accumulated * distributed.world_size()))
        logger.info("begin training epoch %d", self.batches.epoch)
        self.log.progress.begin_epoch(self.batches.epoch, size, done)
        reason = ""
        for micro_batches in self.batches.updates(accumulated):
            self.train_step(micro_batches)
            self.log.progress.advance()
            done += 1
            due = self._cadence.is_due(self.num_updates) or self.stop_reason(end_of_epoch=False)
            if due or self.batches.end_of_epoch():
                reason = self._after_update(done, size)
            if reason:
                break
        self.log.epoch(self.batches.epoch, self._log_state())
        return reason

    def accumulation(self, epoch: int) -> int:
        """Return the micro-batches per rank and update of an epoch (`--update-freq`)."""
        counts = self.optimization.update_freq
        return counts[min(epoch, len(counts)) - 1]

    def train_step(self, micro_batches: MicroBatches) -> None:
        """Make one update from the micro-batches of this rank."""
        begin = time.perf_counter()
        self.model.train()
        self.model.set_num_updates(self.num_updates)
        report = self._backward(micro_batches)
        # The outcome of the *previous* update is read here, while the device is busy with this one. Until now it was
        # taken for a good one; a bad one has changed nothing (`Optimizer.step`), and its count is taken back late.
        self._resolve_previous_update()
        with self._evaluator.memory.attempt():
            self._optimizer_step(report)
        self.num_updates += 1
        self._report = report
        report.seconds = time.perf_counter() - begin
        if self._settle_at_once:
            self._resolve_previous_update()

    def _backward(self, micro_batches: MicroBatches) -> UpdateReport:
        """Add up gradients of summed losses; return the report of the update, summed over ranks."""
        while True:
            # After an attempt for which memory did not suffice, gradients are incomplete: the next begins anew.
            with self._evaluator.memory.attempt():
                report = self._accumulate(micro_batches)
                break
        limit = self.optimization.stop_time_hours * 3600
        report.close(signal=self._is_signalled(), time_up=0 < limit < self.log.meter.seconds)
        return report

    def _accumulate(self, micro_batches: MicroBatches) -> UpdateReport:
        self.optimizer.zero_grad()
        report, memory = UpdateReport(self.device), self._evaluator.memory
        model = self._parallel.current()
        for i, (batch, counts) in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            with self._parallel.sync_gradients(last=is_last), memory.parts_of(batch):
                loss = self._evaluator.train_loss(model, batch)
                memory.is_shared = is_last and distributed.world_size() > 1
                # A filler keeps ranks in step: it runs through the model and counts for nothing.
                scaled: Any = loss.value * (self._loss_scale if counts else 0.0)
                scaled.backward()
            if counts:
                report.add(batch, loss)
        self._parallel.finish_backward()
        return report

    def _optimizer_step(self, report: UpdateReport) -> None:
        """Scale and clip the gradient, and step; all on the device."""
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        # DistributedDataParallel has averaged over ranks; what is wanted is the gradient per term of the loss.
        factor = distributed.world_size() / self._loss_scale / report.sample_size.clamp(min=1e-6)
        scale_gradients(gradients, factor.float())
        norm = self._parallel.norm(gradients)
        if self.optimization.clip_norm > 0:
            epsilon = 0.0 if self._scaler else 1e-6
            scale_gradients(gradients, clip_coefficient(norm, self.optimization.clip_norm, epsilon))
        self.optimizer.step(self.lr, skip=report.judge(norm))

    def _resolve_previous_update(self) -> None:
        """Read the outcome of the last update: count it, or take it back."""
        report, self._report = self._report, None
        if report is None:
            return
        outcome = report.outcome()
        self._interrupted |= outcome.signal > 0
        self._time_up |= outcome.time_up > 0
        if outcome.skipped:
            self.optimizer.undo_count()
            self.num_updates -= 1
        else:
            self.log.add(report, outcome)
        self.skips.note(report, outcome, self.num_updates, self._scaler)

    def _after_update(self, done: int, size: int) -> str:
        """Log, validate and save as due after update `done` of `size` of the epoch; return the reason to stop."""
        self._resolve_previous_update()
        end = self.batches.end_of_epoch()
        reason = self.stop_reason(end_of_epoch=end)
        # A signal leaves no time for a validation that would only be there because training ends.
        stopping = bool(reason) and not self._interrupted
        plan = self._cadence.plan(self.num_updates, self.batches.epoch, end_of_epoch=end, stopping=stopping)
        if plan.log:
            self.log.updates(self.batches.epoch, done, size, self._log_state())
        return self._validate_and_save(plan, reason, end_of_epoch=end)

    def _validate_and_save(self, plan: Plan, reason: str, *, end_of_epoch: bool) -> str:
        """Do what is planned, given a reason to stop or none; return the reason to stop.

        A validation that a signal forestalls or cuts short is made up for when the run goes on.
        """
        score = None
        if plan.validate and not self._interrupted:
            try:
                score = self.validate()
            except W2vError:
                self.save(end_of_epoch=end_of_epoch, score=None)  # a fault of the validation set costs no update
                raise
            reason = reason or (INTERRUPTED if self._interrupted else self._patience.note(score))
        self._pending_validation = plan if plan.validate and self._interrupted else None
        if plan.save or reason:
            self.save(end_of_epoch=end_of_epoch, score=score)
        return reason

    def _run_pending_validation(self) -> str:
        """Make up for the validation that an earlier start of the run owes; return a reason to stop, or nothing."""
        if self._pending_validation is None or self.dataset.disable_validation:
            return ""
        self.model.set_num_updates(max(self.num_updates - 1, 0))  # as it was during the last update
        return self._validate_and_save(self._pending_validation, "", end_of_epoch=self.batches.position == 0)

    def stop_reason(self, *, end_of_epoch: bool) -> str:
        """Return why training should end now, or an empty string."""
        limits, n = self.optimization, self.num_updates
        if self._interrupted:
            return INTERRUPTED
        if 0 < limits.max_update <= n:
            return f"--max-update {limits.max_update} is reached"
        if self._time_up:
            return f"--stop-time-hours {limits.stop_time_hours:g} are over"
        if 0 < limits.max_epoch <= self.batches.epoch - (not end_of_epoch):
            return f"--max-epoch {limits.max_epoch} is reached"
        # Differs from the original, which looks when epochs end. Not before the first update: warm-up begins with 0.
        if n > 0 and self.lr <= self.schedule.stop_lr:
            return f"the learning rate {self.lr:g} has fallen to --min-lr {self.schedule.stop_lr:g}"
        return ""

    def validate(self) -> float | None:
        """Validate on every subset; return the score of the first one, None if it is not a finite number.

        A signal, to whichever rank, cuts it short.

        Raises:
            ConfigError: validation does not give the value of `--best-checkpoint-metric`.
        """
        score: float | None = None
        metric = self.checkpoint.best_checkpoint_metric
        for place, subset in enumerate(name.strip() for name in self.dataset.valid_subset.split(",")):
            logger.info('begin validation on "%s" subset', subset)
            values = self._evaluator.evaluate(self.model, subset, self.dataset, self._is_signalled)
            if values is None:
                self._interrupted = True
                return None
            line = {f"{subset}_{name}": value for name, value in values.items()}
            line[f"{subset}_num_updates"] = self.num_updates
            if place == 0:
                if metric not in values:
                    raise ConfigError(f"--best-checkpoint-metric must be one of {', '.join(values)}, got {metric!r}")
                score = values[metric] if math.isfinite(values[metric]) else None
                best = self.manager.best
                if best is not None:
                    line[f"{subset}_best_{metric}"] = self.manager.better_of(score, best)
            self.log.progress.log_summary(subset, self._epoch, line)
        return score

    def save(self, *, end_of_epoch: bool, score: float | None) -> None:
        """Write the checkpoints that are due; every rank must call this.

        Raises:
            TrainingError: the weights are not finite; nothing is written.
            CheckpointError: a file cannot be written.
        """
        begin = time.perf_counter()
        epoch, n = self._epoch, self.num_updates
        names = self.manager.names(epoch=epoch, num_updates=n, end_of_epoch=end_of_epoch, score=score)
        names += [LAST] if self._interrupted and LAST not in names else []
        if self.checkpoint.no_save or not names:
            return
        if not math.isfinite(float(self._parallel.norm(self._parallel.weights()))):
            raise TrainingError(f"weights are not finite after update {n}; no checkpoint was written")
        state = self.state_dict()
        if distributed.is_master():
            path = self.manager.write(names, state)[0]
            logger.info(
                "saved checkpoint %s (epoch %d @ %d updates, score %s) (writing took %.3f seconds)",
                path, epoch, n, score, time.perf_counter() - begin,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a run needs to go on; every rank must call this."""
        optimizer = None if self.checkpoint.no_save_optimizer_state else self.optimizer
        weights, optimizer_state = self._parallel.state_dict(optimizer)
        return {
            "w2v_version": __version__,
            "config": self.config_plain,
            "model": weights,
            "optimizer": optimizer_state,
            "lr_scheduler": {},  # a schedule is a function of the number of updates
            "scaler": self._scaler.state_dict() if self._scaler else None,
            "iterator": self.batches.state_dict(),
            "trainer": {
                "num_updates": self.num_updates,
                "skips": self.skips.state_dict(),
                "best": self.manager.best,
                "patience": self._patience.state_dict(),
                "owed": self._pending_validation and {"save": self._pending_validation.save},
            },
            "metrics": self.log.state_dict(),
            "task": self.task.state_dict(),
        }

    def restore(self) -> None:
        """Go on from a checkpoint, if there is one; every rank reads it, and the master says which."""
        found = self.manager.find() if distributed.is_master() else None
        path = distributed.gather_objects(found and found[0])[0]
        if path is not None:
            self.load_state_dict(found[1] if found else load_checkpoint(path))
            logger.info("loaded checkpoint %s (epoch %d @ %d updates)", path, self.batches.epoch, self.num_updates)
        elif self.checkpoint.finetune_from_model:
            self._load_weights(load_checkpoint(Path(self.checkpoint.finetune_from_model)))
            logger.info("loaded the weights of %s", self.checkpoint.finetune_from_model)
        else:
            logger.info("no existing checkpoint found %s", self.manager.folder / LAST)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, less what the `--reset-*` flags leave out.

        Raises:
            CheckpointError: the state belongs to another model, criterion or optimizer.
        """
        flags, trainer = self.checkpoint, state["trainer"]
        if "optimizer" not in state:
            raise CheckpointError("the checkpoint holds a model and no state of training; give --finetune-from-model")
        self._load_weights(state)
        if not flags.reset_optimizer:
            self._check_component(state, "criterion")
            self._check_component(state, "optimizer")
            if state["optimizer"] is None:
                logger.warning("the checkpoint holds no optimizer state (--no-save-optimizer-state); it starts afresh")
            else:
                self._parallel.load_optimizer(self.optimizer, state["optimizer"])
            if self._scaler is not None and state["scaler"] is not None:
                self._scaler.load_state_dict(state["scaler"])
            self.num_updates = trainer["num_updates"]
            self.skips.load_state_dict(trainer.get("skips") or {"total": trainer["skipped"], "in_a_row": 0})
            self._cadence.resume(self.num_updates)
        if not flags.reset_dataloader:
            self.batches.load_state_dict(state["iterator"])
        if not flags.reset_meters:
            self.log.load_state_dict(state["metrics"], new_epoch=self.batches.position == 0)
            if not flags.reset_optimizer:
                self.manager.best = trainer["best"]
                self._patience.load_state_dict(trainer["patience"])
                owed = trainer.get("owed")
                self._pending_validation = owed and Plan(log=False, validate=True, save=owed["save"])

    def _load_weights(self, state: dict[str, Any]) -> None:
        try:
            self._parallel.load_weights(state["model"])
        except RuntimeError as e:
            raise CheckpointError(f"the checkpoint does not fit the model: {' '.join(str(e).split())}") from e

    def _check_component(self, state: dict[str, Any], section: str) -> None:
        saved, ours = (config.get(section, {}).get("_name") for config in (state["config"], self.config_plain))
        if saved != ours:
            raise CheckpointError(
                f"the checkpoint was trained with --{section} {saved}, this run has {ours}; give --reset-optimizer"
            )

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.schedule.lr(self.num_updates, self.batches.epoch)

    @property
    def _loss_scale(self) -> float:
        return self._scaler.scale if self._scaler else 1.0

    @property
    def _epoch(self) -> int:
        """The epoch of the last update; the iterator may have been restored to the beginning of the next one."""
        epoch: int = self.batches.epoch
        return max(epoch - 1, 1) if self.batches.position == 0 else epoch

    def _is_signalled(self) -> bool:
        return self._interrupt.received is not None

    def _log_state(self) -> dict[str, float]:
        """Return what a training line shows beside averages."""
        scale = {} if self._scaler is None else {"loss_scale": self._scaler.scale}
        return {"num_updates": self.num_updates, "lr": self.lr, **scale}
