"""The training loop: updates, validation, checkpoints, reasons to stop. Read this first, `step` next.

    for each epoch: for each update: micro-batches ─ step.backward ─ step.apply ─ what is due: log, validate, save, stop

File names are `checkpoint.manager`'s, how a start begins `checkpoint.start`'s, log lines `log`'s, intervals
`intervals`', learning rates `optim`'s, and what a batch means is the task's. There are no hooks: what a model needs to
know about progress it is told through `set_num_updates`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from w2v import distributed
from w2v.checkpoint.file import load_checkpoint
from w2v.checkpoint.manager import CheckpointManager
from w2v.checkpoint.start import LAST, Start
from w2v.config.sections import CheckpointConfig, CommonConfig, DatasetConfig, OptimizationConfig
from w2v.criterions.base import Criterion
from w2v.distributed.watchdog import InterruptedWaitError
from w2v.errors import CheckpointError, ConfigError, DataError, TrainingError, W2vError
from w2v.functional.products import quickest_safe
from w2v.models.base import W2vModel, of_another_shape
from w2v.optim.base import Optimizer, Schedule
from w2v.optim.loss_scaler import build_loss_scaler
from w2v.tasks.base import Task
from w2v.training.agreement import require_agreement
from w2v.training.beginning_model import read_weights
from w2v.training.ddp import ParallelModel
from w2v.training.intervals import Cadence, Patience, Plan
from w2v.training.log import TrainingLog
from w2v.training.metrics import rounded
from w2v.training.signals import Interrupt
from w2v.training.step import Step
from w2v.training.update_report import SkipCounter, UpdateReport
from w2v.training.validation import Validator
from w2v.types import Batch
from w2v.version import __version__

logger = logging.getLogger(__name__)

MicroBatches = list[tuple[Batch, bool]]
INTERRUPTED = "a signal asked for it"


class Trainer:
    """Trains a model on `task` until there is a reason to stop.

    Args:
        task: gives batches and losses.
        parallel: the model, as the ranks share it.
        criterion: the loss.
        optimizer: over all parameters of the model.
        schedule: learning rate.
        common, dataset, optimization, checkpoint: the root sections.
        config_plain: configuration by section, as plain data, for the checkpoint.
        device: where to train.
        sample_rate: samples per second, if batches hold audio; then the bar shows audio-seconds per second.
    """

    def __init__(
        self,
        task: Task,
        parallel: ParallelModel,
        criterion: Criterion,
        optimizer: Optimizer,
        schedule: Schedule,
        common: CommonConfig,
        dataset: DatasetConfig,
        optimization: OptimizationConfig,
        checkpoint: CheckpointConfig,
        config_plain: dict[str, Any],
        *,
        device: torch.device | None = None,
        sample_rate: int | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.criterion = criterion.to(self.device)
        self.model: W2vModel = parallel.model
        self._parallel = parallel
        self._parallel.attach_optimizer(optimizer)
        self.common, self.dataset = common, dataset
        self.optimization, self.checkpoint = optimization, checkpoint
        self.config_plain = config_plain
        self.batches: Any = task.train_batches(dataset.train_split, dataset)
        self.manager = CheckpointManager(checkpoint)
        self.log = TrainingLog(
            self.criterion, common, optimization, self.device, self.model.codebook_size, sample_rate, config_plain
        )
        self.num_updates = 0
        self.skips = SkipCounter()
        # Kept in checkpoints also while a CPU computes in another format: the run may go back to a GPU.
        self._scaler = build_loss_scaler(common, optimization, distributed.world_size())
        self.step = Step(
            task, parallel, self.criterion, optimizer, self._scaler, self.device, common, optimization.clip_norm
        )
        self._validator = Validator(task, self.criterion, self.step, self.device)
        self._cadence = Cadence(common, dataset, checkpoint)
        self._patience = Patience(checkpoint.patience, self.manager.scores.is_better)
        self._report: UpdateReport | None = None
        # The loss scale decides about the very next update; and a CPU has nothing queued.
        self._settle_at_once = self._scaler is not None or self.device.type == "cpu"
        self._interrupt = Interrupt()
        self._interrupted = self._time_up = False
        self._pending_validation: Plan | None = None

    # ------------------------------------------------------------------------------------------ the loop

    def train(self) -> str:
        """Restore, train, validate and save until there is a reason to stop, which is returned.

        Raises:
            TrainingError: training cannot continue; the last good checkpoint is left as it was.
            CheckpointError: a checkpoint cannot be read, or not be written.
            ConfigError: the ranks do not have the same data, flags or versions.
        """
        begin = time.perf_counter()
        with self._interrupt, contextlib.ExitStack() as stack:
            for part in (self.manager, self.log, self.batches):
                stack.callback(part.close)
            if distributed.world_size() > 1:
                # The first collective of the run, before anything is written or waited for. A digest reads all names
                # and labels, which takes a second for ten million clips: not for a single process.
                found = {**self.task.digest(), "number of batches": str(self.batches.num_updates(1))}
                require_agreement(found, self.config_plain)
            if distributed.is_master():
                self.manager.prepare()  # the lock is rank 0's alone
            distributed.barrier()  # no rank reads the folder before it is locked and tidied up
            self.settle_number_format()
            self.restore()
            logger.info("training on %d devices (%s)", distributed.world_size(), self.device.type)
            reason = self._run_pending_validation() or self.stop_reason(end_of_epoch=False) or self._patience.reason()
            while not reason:
                reason = self.train_epoch()
        logger.info("stopping: %s", reason)
        logger.info("done training in %.1f seconds (%s)", time.perf_counter() - begin, reason)
        distributed.barrier()
        return reason

    def settle_number_format(self) -> None:
        """Compute in a quicker number format where this CPU is slow in that of the flags; every rank must call this.

        Rank 0 decides, since a loss scale must be that of all.
        """
        asked = self.step.half
        ours = quickest_safe(asked, self.device, training=True) if distributed.is_master() else asked
        self.step.half = distributed.gather_objects(ours)[0]
        if self.step.half != torch.float16:
            self.step.scaler = None

    def train_epoch(self) -> str:
        """Train to the end of the epoch, from the saved position on; return the reason to stop, or nothing."""
        if self.batches.end_of_epoch():
            self.batches.advance_epoch()
        accumulated = self.accumulation(self.batches.epoch)
        size = self.batches.num_updates(accumulated)
        if size == 0:
            raise DataError(f"--train-subset {self.dataset.train_subset}: there is not a single batch to train on")
        # Updates of this epoch that an earlier start has made; other ranks may have made them, hence the rounding.
        done = math.ceil(self.batches.position / (accumulated * distributed.world_size()))
        logger.info("begin training epoch %d", self.batches.epoch)
        self.log.progress.begin_epoch(self.batches.epoch, size, done)
        reason = ""
        for micro_batches in self._waited_for(self.batches.updates(accumulated)):
            self.train_step(micro_batches)
            self.log.progress.advance()
            done += 1
            due = self._cadence.is_due(self.num_updates) or self.stop_reason(end_of_epoch=False)
            if due or self.batches.end_of_epoch():
                reason = self._after_update(done, size)
            if reason:
                break
        if self._interrupted and not reason:  # while this process waited for a batch: no update had begun
            reason = self._after_update(done, size)
        self.log.epoch(self.batches.epoch, self._log_state())
        return reason

    def _waited_for(self, updates: Iterator[MicroBatches]) -> Iterator[MicroBatches]:
        """Yield the micro-batches of updates; a signal ends the wait for the next ones, or the process."""
        while True:
            asked = time.perf_counter()
            try:
                with self._interrupt.wait():
                    micro_batches = next(updates, None)
            except InterruptedWaitError:
                self._interrupted = True
                return
            if micro_batches is None:
                return
            self.log.add_wait(time.perf_counter() - asked)
            yield micro_batches

    def accumulation(self, epoch: int) -> int:
        """Return the micro-batches per rank and update of an epoch (`--update-freq`)."""
        counts = self.optimization.update_freq
        return counts[min(epoch, len(counts)) - 1]

    def train_step(self, micro_batches: MicroBatches) -> None:
        """Make one update from the micro-batches of this rank."""
        begin = time.perf_counter()
        self.model.train()  # a validation has switched it over
        # Temperatures, frozen parts and LayerDrop follow from this number alone, so a restart needs no more.
        self.model.set_num_updates(self.num_updates)
        report = self.step.backward(micro_batches)
        limit = self.optimization.stop_time_hours * 3600
        # One collective per update: sums, sample sizes, and who wants to stop.
        report.close(signal=self._is_signalled(), time_up=0 < limit < self.log.meter.seconds)
        # The outcome of the *previous* update is read here, while the device is busy with this one. Until now it was
        # taken for a good one; a bad one has changed nothing (`Optimizer.step`), and its count is taken back late.
        self._resolve_previous_update()
        self.step.apply(report, self.lr)
        self.num_updates += 1  # taken back by `_resolve_previous_update` if the update turns out to be skipped
        self._report = report
        report.seconds = time.perf_counter() - begin
        if self._settle_at_once:
            self._resolve_previous_update()

    def _resolve_previous_update(self) -> None:
        """Read the outcome of the last update: count it, or take it back."""
        report, self._report = self._report, None
        if report is None:
            return
        outcome = report.outcome()  # waits for a copy of eight numbers, not for the device
        self._interrupted |= outcome.signal > 0
        self._time_up |= outcome.time_up > 0
        if outcome.skipped:
            self.optimizer.undo_count()
            self.num_updates -= 1
        else:
            self.log.add(report, outcome)
        self.skips.note(report, outcome, self.num_updates, self.step.scaler)

    # ------------------------------------------------------------------------------------------ what is due

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

        A validation that a signal forestalls or cuts short, or that fails, is made up for when the run resumes.
        """
        score = None
        self._pending_validation = plan if plan.validate else None
        if plan.validate and not self._interrupted:
            try:
                score = self.validate()
            except W2vError:
                # A fault of the validation set costs no update.
                self.save(end_of_epoch=end_of_epoch, score=None, is_end=True)
                raise
            if self._interrupted:
                reason = reason or INTERRUPTED
            else:
                self._pending_validation = None
                reason = reason or self._patience.note(None if score is None else self._shown(score))
        if plan.save or reason or self.manager.is_worth_a_file(score):
            self.save(end_of_epoch=end_of_epoch, score=score, is_end=bool(reason))
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
        # Differs from the original, which looks when epochs end, and takes the low rates of a warm-up for the end.
        if self.schedule.has_fallen(n, self.batches.epoch):
            schedule = self.schedule
            return f"the learning rate {self.lr:g} has fallen to {schedule.stop_flag} {schedule.stop_lr:g}"
        return ""

    def validate(self) -> float | None:
        """Validate on every subset; return the score of the first one in full precision, None if it is not finite.

        A signal, to whichever rank, cuts it short.

        Raises:
            ConfigError: validation does not give the value of `--best-checkpoint-metric`.
        """
        score: float | None = None
        metric = self.checkpoint.best_checkpoint_metric
        # The first subset decides about the best; all are logged.
        for place, subset in enumerate(name.strip() for name in self.dataset.valid_subset.split(",")):
            logger.info('begin validation on "%s" subset', subset)
            values = self._validator.evaluate(self.model, subset, self.dataset, self._is_signalled)
            if values is None:
                self._interrupted = True
                return None
            line = {f"{subset}_{name}": value for name, value in rounded(values).items()}
            line[f"{subset}_num_updates"] = self.num_updates
            if place == 0:
                if metric not in values:
                    raise ConfigError(f"--best-checkpoint-metric must be one of {', '.join(values)}, got {metric!r}")
                score = values[metric] if math.isfinite(values[metric]) else None
                best = self.manager.scores.best
                if best is not None:
                    line[f"{subset}_best_{metric}"] = self._shown(self.manager.scores.better_of(score, best))
            self.log.progress.log_summary(subset, self._epoch, line)
        return score

    def _shown(self, score: float) -> float:
        """Return a score as log lines show it, and as the original compares it for `--patience`."""
        return rounded({self.checkpoint.best_checkpoint_metric: score})[self.checkpoint.best_checkpoint_metric]

    # ------------------------------------------------------------------------------------------ checkpoints

    def save(self, *, end_of_epoch: bool, score: float | None, is_end: bool = False) -> None:
        """Write the checkpoints that are due; every rank must call this.

        Raises:
            TrainingError: the weights are not finite; nothing is written.
            CheckpointError: a file cannot be written.
        """
        begin = time.perf_counter()
        epoch, n = self._epoch, self.num_updates
        names = self.manager.names(
            epoch=epoch, num_updates=n, end_of_epoch=end_of_epoch, score=score, is_end=is_end or self._interrupted
        )
        if self.checkpoint.no_save or not names:
            return
        # One pass over the weights, and a wait for the device: little beside writing them.
        if not math.isfinite(float(self._parallel.norm(self._parallel.weights()))):
            raise TrainingError(f"weights are not finite after update {n}; no checkpoint was written")
        state = self.state_dict(names)  # collectives: every rank takes part, rank 0 gets the whole
        if distributed.is_master():
            with self._interrupt.busy():
                path = self.manager.write(names, state)[0]
            logger.info(
                "saved checkpoint %s (epoch %d @ %d updates, score %s) (writing took %.3f seconds)",
                path, epoch, n, score and self._shown(score), time.perf_counter() - begin,
            )  # fmt: skip

    def state_dict(self, names: list[str] | None = None) -> dict[str, Any]:
        """Return everything that a run needs to resume; every rank must call this.

        Args:
            names: the files that are to hold it.
        """
        optimizer = None if self.checkpoint.no_save_optimizer_state else self.optimizer
        weights, optimizer_state = self._parallel.state_dict(optimizer)
        start = self.manager.start
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
                "run": start.run,
                "start": start.number,
                "began": start.began,
                "names": names or [],
                "ranks": distributed.world_size(),
                "skips": self.skips.state_dict(),
                "best": self.manager.scores.best,
                "scores": self.manager.scores.state_dict(),
                "patience": self._patience.state_dict(),
                "owed": self._pending_validation and {"save": self._pending_validation.save},
            },
            "metrics": self.log.state_dict(),
            "task": self.task.state_dict(),
        }

    def restore(self) -> None:
        """Load the checkpoint with which this start begins, if there is one: rank 0 says which, every rank reads it."""
        ours = self.manager.find_start() if distributed.is_master() else Start()
        # Without the tensors: every rank maps the file for itself.
        start: Start = distributed.gather_objects(replace(ours, state=None))[0]
        self.manager.start = start
        if start.path is not None:
            state = ours.state if ours.state is not None else load_checkpoint(start.path)
            self.load_state_dict(state, resets=start.resets)
            if distributed.is_master():
                self.manager.complete(replace(start, state=state))
            self.manager.scores.load_state_dict(distributed.gather_objects(self.manager.scores.state_dict())[0])
            logger.info(
                "loaded checkpoint %s (epoch %d @ %d updates)", start.path, self.batches.epoch, self.num_updates
            )
        elif start.finetune and self.checkpoint.finetune_from_model:
            self._load_weights(read_weights(self.checkpoint.finetune_from_model))
            logger.info("loaded the weights of %s; the run begins at update 0", self.checkpoint.finetune_from_model)
        else:
            logger.info("no existing checkpoint found %s", self.manager.folder / LAST)
        self.log.progress.begin_start(start.number, self.num_updates)

    def load_state_dict(self, state: dict[str, Any], *, resets: bool = True) -> None:
        """Take over a saved state, less what the `--reset-*` flags leave out.

        Args:
            state: what `state_dict` returned.
            resets: whether these flags hold in this start.

        Raises:
            CheckpointError: the state belongs to another model, criterion or optimizer.
        """
        flags, trainer = self.checkpoint, state["trainer"]
        reset_optimizer = resets and flags.reset_optimizer
        if "optimizer" not in state:
            raise CheckpointError("the checkpoint holds a model and no state of training; give --finetune-from-model")
        self._load_weights(state)
        if not reset_optimizer:
            self._load_optimizer(state)
        if not (resets and flags.reset_dataloader):
            self.batches.load_state_dict(state["iterator"])
        if (resets and flags.reset_meters) or "metrics" not in state:  # of fairseq, they are left behind
            return
        self.log.load_state_dict(state["metrics"], new_epoch=self.batches.position == 0)
        # The end of a run that had no more time is in the checkpoint, too. All ranks read the same number.
        limit = self.optimization.stop_time_hours * 3600
        self._time_up = 0 < limit < state["metrics"]["now"]["steps"]["seconds"]
        if not reset_optimizer:
            if self.manager.scores.load_state_dict(trainer.get("scores") or {"best": trainer["best"]}):
                self._patience.load_state_dict(trainer["patience"])
            owed = trainer.get("owed")
            self._pending_validation = owed and Plan(log=False, validate=True, save=owed["save"])

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Take over the optimizer, the loss scale and the number of updates."""
        trainer = state["trainer"]
        self._check_component(state, "criterion")
        self._check_component(state, "optimizer")
        if state["optimizer"] is None:
            logger.warning("the checkpoint holds no optimizer state (--no-save-optimizer-state); it starts afresh")
        else:
            self._parallel.load_optimizer(self.optimizer, state["optimizer"])
        if self._scaler is not None and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])
        self.num_updates = trainer["num_updates"]
        self.skips.load_state_dict(trainer.get("skips") or {"total": trainer.get("skipped", 0), "in_a_row": 0})
        self._cadence.resume(self.num_updates)
        self._compare_batches(state)

    def _compare_batches(self, state: dict[str, Any]) -> None:
        """Warn where an update has another number of batches than before, as on a machine with other GPUs."""
        ranks, freq = state["trainer"].get("ranks"), state["config"].get("optimization", {}).get("update_freq")
        if not ranks or not freq or self.optimization.batch_audio is not None:
            return
        before, now = ranks * freq[-1], distributed.world_size() * self.optimization.update_freq[-1]
        if before != now:
            logger.warning(
                "an update has %d batches (%d ranks, --update-freq %d); it had %d when the checkpoint was written (%d "
                "ranks)%s", now, distributed.world_size(), self.optimization.update_freq[-1], before, ranks,
                f"; --update-freq {before // distributed.world_size()} would keep it"
                if before % distributed.world_size() == 0 else "",
            )  # fmt: skip

    def _load_weights(self, state: dict[str, Any]) -> None:
        self.task.check_state(state.get("task") or {})
        try:
            self._parallel.load_weights(state["model"])
        except RuntimeError as e:
            what = _misfit(self.model.state_dict(), state["model"], e)
            raise CheckpointError(f"the checkpoint does not fit the model: {what}") from e

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
    def _epoch(self) -> int:
        """The epoch of the last update; the iterator may have been restored to the beginning of the next one."""
        epoch: int = self.batches.epoch
        return max(epoch - 1, 1) if self.batches.position == 0 else epoch

    def _is_signalled(self) -> bool:
        return self._interrupt.received is not None

    def _log_state(self) -> dict[str, float]:
        """Return what a training line shows beside averages."""
        scale = {} if self.step.scaler is None else {"loss_scale": self.step.scaler.scale}
        return {"num_updates": self.num_updates, "lr": self.lr, **scale}


def _misfit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], error: RuntimeError) -> str:
    """Return why tensors do not fit: of those with another shape the first one, else what torch says."""
    others = of_another_shape(wanted, given)
    if not others:
        return " ".join(str(error).split())
    there, here = (list(tensors[others[0]].shape) for tensors in (given, wanted))
    text = f"{others[0]} has the shape {there} there, {here} here"
    text += f" ({len(others)} tensors differ)" if len(others) > 1 else ""
    if all(".proj." in name for name in others):
        text += "; it has another number of symbols than the dictionary: --w2v-path takes its encoder alone"
    return text
