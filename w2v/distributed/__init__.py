"""The processes of a run."""

from w2v.distributed.collectives import (
    any_rank,
    barrier,
    gather_objects,
    is_master,
    rank,
    sum_across_ranks,
    sum_dicts_across_ranks,
    world_size,
)

__all__ = [
    "any_rank",
    "barrier",
    "gather_objects",
    "is_master",
    "rank",
    "sum_across_ranks",
    "sum_dicts_across_ranks",
    "world_size",
]
