"""One update: from the micro-batches of a rank to new weights. The loop around it is `trainer`'s.

    batch ─ task.train_step (model, criterion) ─ Loss ─ backward pass ─ gradients averaged over ranks ─ scale and clip
       ─ optimizer

Read this for the number format, the seed of dropout, what happens when memory runs out, and when ranks exchange
gradients. Nothing here waits for the device, but for the loss scale of `--fp16`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from w2v import distributed
from w2v.config.sections import CommonConfig
from w2v.criterions.base import Criterion
from w2v.optim.base import Optimizer
from w2v.optim.gradients import clip_coefficient, scale_gradients
from w2v.optim.loss_scaler import LossScaler
from w2v.rng import seed_from
from w2v.tasks.base import Task
from w2v.training.ddp import ParallelModel
from w2v.training.oom import OutOfMemoryGuard
from w2v.training.update_report import UpdateReport
from w2v.types import Batch, Loss


class Step:
    """Computes losses and makes updates, on one device and in one number format.

    Args:
        task: its steps are called.
        parallel: the model, as the ranks share it.
        criterion: the loss.
        optimizer: over the parameters of the model.
        scaler: the loss scale of `--fp16`; None: 1.
        device: batches are copied there.
        common: `--fp16` or `--bf16` choose the number format of autocast; weights stay in float32.
        clip_norm: largest norm of the gradient; 0: no clipping.

    Attributes:
        memory: decides in how many parts a batch goes through the model.
        half: the number format of autocast; None: float32. The trainer may choose another one before the first update.
        scaler: the loss scale of `--fp16`; None: 1.
    """

    def __init__(
        self,
        task: Task,
        parallel: ParallelModel,
        criterion: Criterion,
        optimizer: Optimizer,
        scaler: LossScaler | None,
        device: torch.device,
        common: CommonConfig,
        clip_norm: float,
    ) -> None:
        self._task, self._parallel, self._criterion, self._optimizer = task, parallel, criterion, optimizer
        self.scaler, self._device, self._clip_norm = scaler, device, clip_norm
        self.memory = OutOfMemoryGuard()
        self.memory.is_sharded = parallel.is_sharded
        self.half: torch.dtype | None = None
        if common.bf16:
            self.half = torch.bfloat16
        elif common.fp16 or common.memory_efficient_fp16:
            self.half = torch.float16

    @property
    def loss_scale(self) -> float:
        """Factor on the loss, 1 without `--fp16`."""
        return self.scaler.scale if self.scaler else 1.0

    def train_loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """Return the loss that is trained on; it may run out of memory, as may the backward pass from it."""
        # Dropout is the one user of the global generator. Seeded by the batch, it is the same in whichever
        # micro-batch, rank or restart the batch comes up.
        torch.manual_seed(seed_from(batch.seed, "dropout"))
        # Autocast casts the inputs of matrix products, (B, T, C) to half; the loss itself stays in float32.
        with torch.autocast(self._device.type, self.half, enabled=self.half is not None):
            loss = self._task.train_step(model, self._criterion, batch.to(self._device))
        sources = self._task.sources
        return loss if sources is None else sources.weigh(loss, batch.indices)

    def valid_loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """Return the loss of a validation batch, computed in parts where memory does not suffice for the whole."""
        while True:
            # An attempt that ran out of memory does not return from here, so the loop makes the next one.
            with self.memory.attempt(), self.memory.parts_of(batch):
                torch.manual_seed(seed_from(batch.seed, "dropout"))
                with torch.autocast(self._device.type, self.half, enabled=self.half is not None):
                    return self._task.valid_step(model, self._criterion, batch.to(self._device))

    def backward(self, micro_batches: list[tuple[Batch, bool]]) -> UpdateReport:
        """Add up the gradients of summed losses over the micro-batches of this rank.

        Args:
            micro_batches: batches, each with whether it counts; one that does not only keeps the ranks in step.

        Returns:
            the numbers of this rank, still on the device.

        Raises:
            TrainingError: memory does not suffice for a single clip.
        """
        while True:
            # Gradients of an attempt that ran out of memory are incomplete: the next attempt begins with none.
            with self.memory.attempt():
                return self._accumulate(micro_batches)

    def _accumulate(self, micro_batches: list[tuple[Batch, bool]]) -> UpdateReport:
        self._optimizer.zero_grad()
        report, memory = UpdateReport(self._device), self.memory
        model = self._parallel.current()
        for i, (batch, counts) in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            # Gradients are exchanged in the backward pass of the last micro-batch alone: once per update.
            with self._parallel.sync_gradients(last=is_last), memory.parts_of(batch):
                loss = self.train_loss(model, batch)
                # From here on other ranks wait for our gradients, so this attempt cannot be repeated.
                memory.is_shared = is_last and distributed.world_size() > 1
                # A filler runs through the model like any batch, because hooks and collectives must match, and
                # counts for nothing. `loss.value` is a sum over frames or symbols, a scalar.
                scaled: Any = loss.value * (self.loss_scale if counts else 0.0)
                scaled.backward()
            if counts:
                report.add(batch, loss)
        self._parallel.finish_backward()
        return report

    def apply(self, report: UpdateReport, lr: float) -> None:
        """Scale and clip the gradient, and change the weights; all on the device.

        Args:
            report: of the backward pass, summed over ranks (`UpdateReport.close`).
            lr: learning rate.
        """
        with self.memory.attempt():  # the optimizer's state is made in the first update, and may not fit
            gradients = [p.grad for p in self._optimizer.parameters if p.grad is not None]
            # DistributedDataParallel has averaged over ranks; what is wanted is the gradient per term of the loss.
            # clamp: an update without a single term is skipped below, and must not divide by zero before.
            factor = distributed.world_size() / self.loss_scale / report.sample_size.clamp(min=1e-6)
            scale_gradients(gradients, factor.float())
            norm: Tensor = self._parallel.norm(gradients)
            if self._clip_norm > 0:
                epsilon = 0.0 if self.scaler else 1e-6  # as in the original, which has two ways of clipping
                scale_gradients(gradients, clip_coefficient(norm, self._clip_norm, epsilon))
            # A gradient that is not finite leaves weights and moments as they are: the kernel is told so by a tensor
            # on the device, which the host reads one update later.
            self._optimizer.step(lr, skip=report.judge(norm))
