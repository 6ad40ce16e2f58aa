"""The flags by which runs of a program share a corpus by hand; the same in every program over clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from w2v.config import arg, check_range
from w2v.data.shard import Shard
from w2v.errors import ConfigError


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
            raise ConfigError(
                f"{flag} and --num-shards go together; {flag} must be given, from 0 on and below the other"
            )
        if self.shard_id is not None and self.num_shards is not None and not 0 <= self.shard_id < self.num_shards:
            raise ConfigError(f"{flag} must be below --num-shards {self.num_shards}, from 0 on, got {self.shard_id}")

    @property
    def shard(self) -> Shard:
        """The part that was chosen by hand: all, without flags."""
        return Shard(self.shard_id or 0, self.num_shards or 1)
