"""What all ranks must have in common, compared when training begins.

Ranks that differ in it would wait for one another without an end, or train on something that nobody meant: other
manifests (a node with an older copy), another dictionary, other flags, other versions.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from w2v import distributed
from w2v.errors import ConfigError
from w2v.version import __version__

OF_ONE_RANK = {
    "common": {"user_dir", "tensorboard_logdir", "wandb_project", "tracker", "log_format", "no_progress_bar"},
    "dataset": {"num_workers", "data_buffer_size"},
    "distributed_training": {
        "distributed_world_size", "distributed_rank", "device_id", "distributed_init_method", "distributed_port",
        "distributed_no_spawn", "heartbeat_timeout",
    },
    "checkpoint": {"save_dir"},
    "task": {"data"},
    "model": {"w2v_path", "w2v_args"},
}  # fmt: skip
"""Flags that may differ: places on a machine, and what a rank does by itself."""
LONGEST_VALUE = 60


def require_agreement(digests: Mapping[str, str], config: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that all ranks have the same; every rank must call this.

    Args:
        digests: what this rank has, by name, in few characters each.
        config: the configuration by section, as plain data.

    Raises:
        ConfigError: a rank has something else than rank 0; on every rank, with the same line.
    """
    ours = {**_versions(), **_flags(config), **digests}
    # A few kB per rank. Where a rank has failed before, the heartbeat ends the wait.
    everybody = distributed.gather_objects((socket.gethostname(), ours))
    first_host, first = everybody[0]
    # Every rank finds the first difference in the same order, so all of them say the same line.
    for rank, (host, theirs) in enumerate(everybody):
        for name in [*first, *(name for name in theirs if name not in first)]:
            if first.get(name) != theirs.get(name):
                raise ConfigError(
                    f"rank {rank} on {host} has another {name} than rank 0 on {first_host}: "
                    f"{_short(theirs.get(name))} instead of {_short(first.get(name))}; all ranks need the same"
                )


def _versions() -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "version of w2v": __version__,
        "version of torch": torch.__version__.partition("+")[0],
        "version of numpy": np.__version__,
        "version of Python": python,
    }


def _flags(config: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {
        f"--{name.replace('_', '-')}" if not name.startswith("_") else f"{section}": repr(value)
        for section, values in config.items()
        for name, value in values.items()
        if name not in OF_ONE_RANK.get(section, ())
    }


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    return value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "..."
