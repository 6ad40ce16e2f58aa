"""One batch through model and criterion, and a whole subset of them for validation."""

from __future__ import annotations

import time

import torch

from w2v import distributed
from w2v.criterions.base import Criterion
from w2v.errors import DataError
from w2v.metrics import Totals, Window
from w2v.rng import seed_from
from w2v.sections import CommonConfig, DatasetConfig
from w2v.tasks.base import Task
from w2v.types import Batch, Loss


class Evaluator:
    """Computes losses of batches on one device, in one number format.

    Args:
        task: its steps are called.
        criterion: the loss.
        device: batches are copied there.
        common: `--fp16` or `--bf16` choose the number format of autocast; weights stay in float32.
    """

    def __init__(self, task: Task, criterion: Criterion, device: torch.device, common: CommonConfig) -> None:
        self.task = task
        self.criterion = criterion
        self.device = device
        self.half: torch.dtype | None = None
        if common.bf16:
            self.half = torch.bfloat16
        elif common.fp16 or common.memory_efficient_fp16:
            self.half = torch.float16

    def train_loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """Return the loss that is trained on."""
        # Dropout is the one user of the global generator. Seeded by the batch, it is the same in whichever
        # micro-batch, rank or restart the batch comes up.
        torch.manual_seed(seed_from(batch.seed, "dropout"))
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            return self.task.train_step(model, self.criterion, batch.to(self.device))

    def valid_loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """Return the loss of a validation batch."""
        torch.manual_seed(seed_from(batch.seed, "dropout"))
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            return self.task.valid_step(model, self.criterion, batch.to(self.device))

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module, subset: str, dataset: DatasetConfig) -> Window:
        """Return totals over a validation subset and all ranks; the task gives each rank its share of the batches.

        Raises:
            DataError: the subset is empty.
        """
        begin = time.perf_counter()
        model.eval()
        sums, clips, count = Totals(self.device), 0, 0
        for batch in self.task.valid_batches(subset, dataset):
            loss = self.valid_loss(model, batch)
            sums.add({"loss": loss.value, "sample_size": loss.sample_size, **loss.sums})
            clips, count = clips + batch.num_items, count + 1
        totals = distributed.sum_dicts_across_ranks(sums.values())
        steps = distributed.sum_dicts_across_ranks({"clips": clips, "updates": count})
        if not steps["updates"]:
            raise DataError(f"--valid-subset {subset}: there is not a single batch to validate on")
        return Window(totals, {**steps, "seconds": time.perf_counter() - begin})
