"""How runs of a program share a corpus: ranks of torchrun or Slurm by themselves, runs by hand with two flags.

A program whose files belong to single clips (`w2v-featurize`) takes `own_part` of its list and needs
nothing else. One that joins its results lets the ranks meet, by `joined_ranks`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TypeVar

import torch

from w2v import distributed
from w2v.data.shard import Shard
from w2v.distributed.process_group import process_group
from w2v.distributed.ranks import RankInfo, find_rank
from w2v_cli.shard_flags import ShardOptions

Item = TypeVar("Item")
Found = TypeVar("Found")
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Ranks end at different times, and the first one waits for the last; the heartbeat tells who is lost.
WAIT = timedelta(days=365)


def own_rank(options: ShardOptions, *, cpu: bool) -> RankInfo:
    """Return which rank this process is: 0 of 1, if nobody started several.

    Raises:
        ConfigError: the variables of torchrun or Slurm do not fit together.
    """
    environ = dict(os.environ)
    if options.num_shards is not None:
        # By hand, a task of Slurm is a run of its own; torchrun's ranks then share its part.
        environ = {name: environ[name] for name in TORCHRUN if name in environ}
    return find_rank(no_spawn=True, cpu=cpu, environ=environ)


def own_shard(options: ShardOptions, rank: RankInfo) -> Shard:
    """Return the part of this rank of this run: the ranks of a run share what was chosen by hand."""
    hand = options.shard
    return Shard(hand.index + hand.count * rank.rank, hand.count * rank.world_size)


def own_part(options: ShardOptions, rank: RankInfo, items: Sequence[Item]) -> Sequence[Item]:
    """Return what this rank of this run takes of a list that all runs and ranks make alike."""
    return own_shard(options, rank).take(items)


def joined_ranks(rank: RankInfo, *, cpu: bool) -> AbstractContextManager[torch.device]:
    """Meet the other ranks, if there are any, in a context that gives the device; if one is lost, all end."""
    # They exchange messages alone, for which gloo does; NCCL would keep the GPU busy while one waits.
    return process_group(rank, cpu=cpu, backend="gloo", collective_timeout=WAIT)


def first_of_ranks(compute: Callable[[], Found]) -> Found:
    """Return, in all ranks, what the first one finds; the others might look later, when ranks have written already."""
    found: Found = distributed.gather_objects(compute() if distributed.is_master() else None)[0]
    return found
