"""One batch through model and criterion, and a whole subset of them for validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from w2v import distributed
from w2v.config.sections import CommonConfig, DatasetConfig
from w2v.criterions.base import Criterion
from w2v.errors import DataError
from w2v.rng import seed_from
from w2v.tasks.base import Task
from w2v.training.metrics import Totals, Window, averaged_counts, rounded, speed
from w2v.training.oom import OutOfMemoryGuard
from w2v.types import Batch, Loss


class Validator:
    """Computes losses of batches on one device, in one number format.

    Args:
        task: its steps are called.
        criterion: the loss.
        device: batches are copied there.
        common: `--fp16` or `--bf16` choose the number format of autocast; weights stay in float32.

    Attributes:
        memory: decides in how many parts a batch goes through the model.
    """

    def __init__(self, task: Task, criterion: Criterion, device: torch.device, common: CommonConfig) -> None:
        self.task = task
        self.criterion = criterion
        self.device = device
        self.memory = OutOfMemoryGuard()
        self.half: torch.dtype | None = None
        if common.bf16:
            self.half = torch.bfloat16
        elif common.fp16 or common.memory_efficient_fp16:
            self.half = torch.float16

    def train_loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """Return the loss that is trained on; for want of memory it may fail, as may the way back from it."""
        # Dropout is the one user of the global generator. Seeded by the batch, it is the same in whichever
        # micro-batch, rank or restart the batch comes up.
        torch.manual_seed(seed_from(batch.seed, "dropout"))
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            return self.task.train_step(model, self.criterion, batch.to(self.device))

    def valid_loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """Return the loss of a validation batch, computed in parts where memory does not suffice for the whole."""
        while True:
            with self.memory.attempt(), self.memory.parts_of(batch):
                torch.manual_seed(seed_from(batch.seed, "dropout"))
                with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                    return self.task.valid_step(model, self.criterion, batch.to(self.device))

    @torch.no_grad()
    def evaluate(
        self, model: torch.nn.Module, subset: str, dataset: DatasetConfig, is_over: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Return the values of a validation subset over all ranks; the task gives each rank its share of the batches.

        Args:
            model: to be evaluated.
            subset: name of the subset.
            dataset: sizes of batches.
            is_over: asked after every batch whether to leave off; if any rank has, the result is None on all of them.

        Raises:
            DataError: the subset is empty.
        """
        begin = time.perf_counter()
        model.eval()
        sums, clips, count = Totals(self.device), 0, 0
        batches: Iterable[Batch] = self.task.valid_batches(subset, dataset)
        # Ranks that share their weights must go through the model equally often.
        for batch, counts in _in_step(batches, is_over) if self.memory.is_sharded else _alone(batches, is_over):
            loss = self.valid_loss(model, batch)
            if not counts:
                continue
            sums.add({"loss": loss.value, "sample_size": loss.sample_size, **loss.sums})
            clips, count = clips + batch.num_items, count + 1
        if distributed.any_rank(is_over()):
            return None
        totals = distributed.sum_dicts_across_ranks(sums.values())
        steps = distributed.sum_dicts_across_ranks({"clips": clips, "updates": count})
        if not steps["updates"]:
            raise DataError(f"--valid-subset {subset}: there is not a single batch to validate on")
        window = Window(totals, {**steps, "seconds": time.perf_counter() - begin})
        rates = speed(window)
        values = averaged_counts(self.task.summarize_valid(self.criterion, totals), window)
        return rounded({**values, **{name: rates[name] for name in ("wps", "wpb", "bsz")}})


def _alone(batches: Iterable[Batch], is_over: Callable[[], bool]) -> Iterator[tuple[Batch, bool]]:
    """Yield batches until it is over."""
    for batch in batches:
        if is_over():
            return
        yield batch, True


def _in_step(batches: Iterable[Batch], is_over: Callable[[], bool]) -> Iterator[tuple[Batch, bool]]:
    """Yield batches until it is over for any rank, or until no rank has one left.

    A rank with fewer than others gets its last one again, or one of another rank's, with False: it counts for nothing.
    """
    mine, filler = iter(batches), None
    while True:
        batch = next(mine, None)
        filler = filler if batch is None else batch
        ranks = distributed.gather_objects((is_over(), batch is not None, filler is not None))
        if any(over for over, _, _ in ranks) or not any(has_one for _, has_one, _ in ranks):
            return
        if not all(has_filler for _, _, has_filler in ranks):
            lenders: list[Any] = distributed.gather_objects(batch)
            filler = filler or next(lent for lent in lenders if lent is not None)
        assert filler is not None
        yield filler, batch is not None
