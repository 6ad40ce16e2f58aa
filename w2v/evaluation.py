"""One batch through model and criterion, and a whole subset of them for validation."""

from __future__ import annotations

import itertools
import time

import torch

from w2v import distributed
from w2v.criterions.base import Criterion
from w2v.errors import DataError
from w2v.metrics import Totals, Window
from w2v.rng import seed_from
from w2v.sections import DatasetConfig
from w2v.tasks.base import Task
from w2v.types import Batch, Loss


class Evaluator:
    """Computes losses of batches on one device, in one number format.

    Args:
        task: its steps are called.
        criterion: the loss.
        device: batches are copied there.
        half: number format of autocast; None: float32 throughout.
    """

    def __init__(self, task: Task, criterion: Criterion, device: torch.device, half: torch.dtype | None) -> None:
        self.task = task
        self.criterion = criterion
        self.device = device
        self.half = half

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
        """Return totals over a validation subset and over all ranks; every rank takes its share of the batches.

        Raises:
            DataError: the subset is empty.
        """
        begin = time.perf_counter()
        model.eval()
        sums, clips, count = Totals(self.device), 0, 0
        batches = self.task.valid_batches(subset, dataset)
        for batch in itertools.islice(batches, distributed.rank(), None, distributed.world_size()):
            loss = self.valid_loss(model, batch)
            sums.add({"loss": loss.value, "sample_size": loss.sample_size, **loss.sums})
            clips, count = clips + batch.num_items, count + 1
        totals = distributed.sum_dicts_across_ranks(sums.values())
        steps = distributed.sum_dicts_across_ranks({"clips": clips, "updates": count})
        if not steps["updates"]:
            raise DataError(f"--valid-subset {subset}: there is not a single batch to validate on")
        return Window(totals, {**steps, "seconds": time.perf_counter() - begin})
