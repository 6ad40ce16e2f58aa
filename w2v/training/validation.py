"""A validation subset, from its batches to its values over all ranks. What one batch gives is `step`'s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from w2v import distributed
from w2v.config.sections import DatasetConfig
from w2v.criterions.base import Criterion
from w2v.errors import DataError
from w2v.tasks.base import Task
from w2v.training.metrics import Totals, Window, averaged_counts, speed
from w2v.training.step import Step
from w2v.types import Batch


class Validator:
    """Sums up the losses of validation subsets.

    Args:
        task: gives batches, and turns sums into values.
        criterion: the loss.
        step: computes the loss of a batch.
        device: where sums are kept.
    """

    def __init__(self, task: Task, criterion: Criterion, step: Step, device: torch.device) -> None:
        self._task, self._criterion, self._step, self._device = task, criterion, step, device

    @torch.no_grad()
    def evaluate(
        self, model: torch.nn.Module, subset: str, dataset: DatasetConfig, is_over: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Return the values of a validation subset over all ranks, in full precision.

        The task gives each rank its share of the batches.

        Args:
            model: to be evaluated.
            subset: name of the subset.
            dataset: sizes of batches.
            is_over: asked after every batch whether to stop; if any rank has to, the result is None on all of them.

        Raises:
            DataError: the subset is empty.
        """
        begin = time.perf_counter()
        model.eval()  # no dropout, no LayerDrop, codes by argmax; `Trainer.train_step` sets it back
        sums, clips, count = Totals(self._device), 0, 0
        batches: Iterable[Batch] = self._task.valid_batches(subset, dataset)
        # Ranks that share their weights must go through the model equally often.
        for batch, counts in _in_step(batches, is_over) if self._step.memory.is_sharded else _alone(batches, is_over):
            loss = self._step.valid_loss(model, batch)
            if not counts:
                continue  # it kept the ranks in step
            sums.add({"loss": loss.value, "sample_size": loss.sample_size, **loss.sums})
            clips, count = clips + batch.num_items, count + 1
        # A collective: also where one rank alone was signalled, all of them leave here.
        if distributed.any_rank(is_over()):
            return None
        # Sums over ranks, and ratios once, at the end: the values do not depend on how batches were dealt.
        totals = distributed.sum_dicts_across_ranks(sums.values())
        steps = distributed.sum_dicts_across_ranks({"clips": clips, "updates": count})
        if not steps["updates"]:
            raise DataError(f"--valid-subset {subset}: there is not a single batch to validate on")
        window = Window(totals, {**steps, "seconds": time.perf_counter() - begin})
        rates = speed(window)
        values = averaged_counts(self._task.summarize_valid(self._criterion, totals), window)
        return {**values, **{name: rates[name] for name in ("wps", "wpb", "bsz")}}


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
            # A rank without a single batch borrows one; costs a copy between processes, once per validation.
            lenders: list[Any] = distributed.gather_objects(batch)
            filler = filler or next(lent for lent in lenders if lent is not None)
        assert filler is not None
        yield filler, batch is not None
