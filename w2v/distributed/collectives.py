"""Rank, world size, sums and gathers over all processes; each is a no-op for one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    pass


def rank() -> int:
    """Return the number of this process, 0 for a single one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_master() -> bool:
    """Whether this process writes files and log lines."""
    return rank() == 0


def sum_across_ranks(values: Tensor) -> Tensor:
    """Add `values` up over all processes, in place, without waiting for the result on the host."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather_objects(value: Any) -> list[Any]:
    """Return the `value` of every process, by rank; slow, meant for log lines and rare messages."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def sum_dicts_across_ranks(sums: Mapping[str, float]) -> dict[str, float]:
    """Add up numbers by name; a process may lack a name that others have."""
    total: dict[str, float] = {}
    for part in gather_objects(dict(sums)):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process gets the same answer."""
    return any(gather_objects(flag))


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()
