"""How runs of a program share a corpus: ranks of torchrun or Slurm by themselves, runs by hand with two flags.

A program whose files belong to single clips (`w2v-featurize`) takes `own_part` of its list and needs
nothing else. One that joins its results lets the ranks meet, by `joined_ranks`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, TypeVar

import torch

from w2v import distributed
from w2v.config import arg, check_range
from w2v.distributed.process_group import process_group
from w2v.distributed.ranks import RankInfo, find_rank
from w2v.distributed.shard import Shard
from w2v.errors import ConfigError

Item = TypeVar("Item")
Found = TypeVar("Found")
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Ranks end at different times, and the first one waits for the last; the heartbeat tells who is lost.
WAIT = timedelta(days=365)


@dataclass(frozen=True)
class ShardOptions:
    """Flags of every program over clips. torchrun's ranks, and without these flags Slurm's, share a corpus as well."""

    shard_flag: ClassVar[str] = "--shard-id"

    num_shards: int | None = arg(
        None, help="split the clips over this many runs, started by hand; ranks of torchrun or Slurm need no flag"
    )
    shard_id: int | None = arg(None, help="which part this run takes, from 0; goes with --num-shards")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "num_shards")
        flag = self.shard_flag
        if (self.shard_id is None) != (self.num_shards is None):
            raise ConfigError(f"{flag} and --num-shards go together; give both or neither")
        if self.shard_id is not None and self.num_shards is not None and not 0 <= self.shard_id < self.num_shards:
            raise ConfigError(f"{flag} must be below --num-shards {self.num_shards}, from 0 on, got {self.shard_id}")

    @property
    def shard(self) -> Shard:
        """The part that was chosen by hand: all, without flags."""
        return Shard(self.shard_id or 0, self.num_shards or 1)


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


def own_part(options: ShardOptions, rank: RankInfo, items: Sequence[Item]) -> Sequence[Item]:
    """Return what this rank of this run takes of a list that all runs and ranks make alike."""
    return Shard(rank.rank, rank.world_size).take(options.shard.take(items))


def joined_ranks(rank: RankInfo, *, cpu: bool) -> AbstractContextManager[torch.device]:
    """Meet the other ranks, if there are any, in a context that gives the device; if one is lost, all end."""
    # They exchange messages alone, for which gloo does; NCCL would keep the GPU busy while one waits.
    return process_group(rank, cpu=cpu, backend="gloo", collective_timeout=WAIT)


def first_of_ranks(compute: Callable[[], Found]) -> Found:
    """Return, in all ranks, what the first one finds; the others might look later, when ranks have written already."""
    found: Found = distributed.gather_objects(compute() if distributed.is_master() else None)[0]
    return found
