"""A split's batches, in resumable epochs for training and in one pass for validation, whatever they are made of."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from w2v import distributed
from w2v.config.sections import DatasetConfig
from w2v.data.batch_sampler import BatchPlan
from w2v.data.dataset import BatchDataset
from w2v.data.iterator import EpochIterator, iterate
from w2v.data.shard_order import ShardOrder

logger = logging.getLogger(__name__)


def train_epochs(
    samples: BatchDataset,
    plan: BatchPlan,
    split: str,
    dataset: DatasetConfig,
    seed: int,
    shard_order: ShardOrder | None = None,
) -> EpochIterator:
    """Return the epochs of a training split for this rank.

    Args:
        samples: makes batches.
        plan: which samples share one.
        split: name, for messages.
        dataset: the root section.
        seed: `--seed`.
        shard_order: draws the order of the batches; None: they are shuffled as a whole.
    """
    _warn_of_skipped(plan, split)
    return EpochIterator(
        samples,
        plan.batches,
        seed=seed,
        num_workers=dataset.num_workers,
        data_buffer_size=dataset.data_buffer_size,
        curriculum=dataset.curriculum,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        name=split,
        pin_memory=torch.cuda.is_available(),
        shard_order=shard_order,
    )


def valid_epoch(samples: BatchDataset, plan: BatchPlan, split: str, dataset: DatasetConfig, seed: int) -> Iterator[Any]:
    """Return this rank's batches of a validation split, the same ones with the same seeds at every call."""
    _warn_of_skipped(plan, split)
    seed = seed if dataset.fixed_validation_seed is None else dataset.fixed_validation_seed
    seeds = [samples.batch_seed(seed, split, number) for number in range(len(plan.batches))]
    mine = slice(distributed.rank(), None, distributed.world_size())
    return iterate(samples, plan.batches[mine], seeds[mine], num_workers=dataset.num_workers)


def data_digest(*arrays: Any) -> str:
    """Return the number of entries of the last array, and a few characters that differ where any of the arrays do."""
    found = hashlib.blake2b(digest_size=6)
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return f"{len(arrays[-1])} entries, digest {found.hexdigest()}"


def text_digest(lines: Sequence[str]) -> str:
    """Return the same for texts."""
    found = hashlib.blake2b("\n".join(lines).encode("utf-8", "surrogatepass"), digest_size=6)
    return f"{len(lines)} entries, digest {found.hexdigest()}"


def _warn_of_skipped(plan: BatchPlan, split: str) -> None:
    if plan.num_skipped:
        logger.warning("%s: left out %d longer than --max-tokens", split, plan.num_skipped)
