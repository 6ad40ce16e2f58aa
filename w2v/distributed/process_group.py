"""Joins the ranks of a run into torch's process group, and ends all of them when one is lost.

A process learns its rank from torchrun's variables, from Slurm's, from `--distributed-init-method` and
`--distributed-rank`, or is a child of `launch`, which sets torchrun's variables: the four ways are the same run.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from w2v.distributed.heartbeat import RENDEZVOUS_TIMEOUT, Heartbeat, accept_all, connect, listen, reminding
from w2v.distributed.rendezvous import interface_towards, rendezvous_host, rendezvous_store
from w2v.errors import ConfigError, TrainingError, W2vError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store
from w2v.distributed.child import leave
from w2v.distributed.collectives import barrier
from w2v.distributed.ranks import RankInfo

TIMEOUT = timedelta(minutes=30)  # validation and the writing of checkpoints happen between two collectives
HEARTBEAT_TIMEOUT = 60.0  # seconds; what --heartbeat-timeout is by default


@contextlib.contextmanager
def process_group(
    place: RankInfo,
    *,
    cpu: bool = False,
    backend: str | None = None,
    timeout: float = HEARTBEAT_TIMEOUT,
    collective_timeout: timedelta | None = None,
) -> Iterator[torch.device]:
    """Take part in a run, in a `with` statement: join the other processes, and leave them in good order.

    While it lasts, the loss of any process ends all of them with a line that names it and exit code 3; an error that
    leaves the block ends the others with the same line and exit code.

    Args:
        place: result of `find_rank`.
        cpu: never use CUDA.
        backend: `nccl` or `gloo`; None: whichever fits the device.
        timeout: seconds that a process may be silent (`--heartbeat-timeout`).
        collective_timeout: how long one process may wait in a collective for the others; None: half an hour.

    Yields:
        the device of this process.

    Raises:
        ConfigError: the other processes cannot be met.
        TrainingError: the connection with them is lost.
    """
    if place.world_size == 1:
        yield _device(place, cpu)
        return
    store, heartbeat, us = _rendezvous(place, timeout)
    try:
        device = _device(place, cpu)
        _join_group(store, place, device, backend, collective_timeout or TIMEOUT)
        yield device
    except W2vError as e:
        heartbeat.fail(f"{us}: {e}", e.exit_code)
        raise
    except BaseException as e:
        if not (isinstance(e, RuntimeError) and _LOST_CONNECTION.search(str(e))):
            heartbeat.fail(f"{us} failed with {type(e).__name__}; its own output says more", 1)
            raise
        heartbeat.await_news()
        raise TrainingError(f"{us} has lost the others: {str(e).strip().splitlines()[0]}") from e
    heartbeat.retire()
    barrier()
    # Kept to the end of the process: were it DistributedDataParallel that lets go of it last, torch would wait for
    # gloo's threads without letting them run (they need the interpreter for their last tensors), and hang.
    _kept.append(dist.group.WORLD)
    dist.destroy_process_group()


_kept: list[Any] = []
# What gloo and NCCL say when another process is not there any more.
_LOST_CONNECTION = re.compile(
    r"gloo/transport|NCCL.*(remote|system error|network|timeout)|connection (was )?(closed|reset|refused)",
    re.IGNORECASE | re.DOTALL,
)


def _rendezvous(place: RankInfo, timeout: float) -> tuple[Store, Heartbeat, str]:
    """Wait until all processes have come; return their store, what watches over them, and what this one is called."""
    method = place.init_method or ""
    us = f"process {os.getpid()} on {socket.gethostname()}"
    waiting = f"rank {place.rank} is still waiting for rank 0 of {place.world_size} at {_address(method)}"
    try:
        with contextlib.nullcontext() if place.rank == 0 else reminding(f"{waiting}: {place.source}"):
            store = rendezvous_store(method, place.rank, place.world_size, timedelta(seconds=RENDEZVOUS_TIMEOUT))
        if place.rank == 0:
            with listen() as server:
                token = secrets.token_hex(16)
                store.set("w2v/door", f"{server.getsockname()[1]} {token}")
                links, cards = accept_all(server, place.world_size, token, us, place.source)
        else:
            with reminding(f"{waiting}: {place.source}"):
                port, token = store.get("w2v/door").decode().split()
            links, cards = connect(rendezvous_host(method), int(port), place.rank, token, us)
    except (RuntimeError, ValueError, OSError) as e:
        where = "open the rendezvous" if place.rank == 0 else "meet rank 0"
        taken = "; another rank 0 or another program has this port" if "EADDRINUSE" in str(e) else ""
        why = str(e).partition(chr(10))[0]
        raise ConfigError(f"rank {place.rank} cannot {where} at {_address(method)}: {why}{taken}") from e
    names = [f"rank {number} ({card})" for number, card in enumerate(cards)]
    return store, Heartbeat(links, names, timeout, leave), names[place.rank]


def _address(method: str) -> str:
    """Return where rank 0 is looked for."""
    if not method.startswith("env:"):
        return method
    return f"MASTER_ADDR={os.environ.get('MASTER_ADDR', '')} MASTER_PORT={os.environ.get('MASTER_PORT', '')}"


def _device(place: RankInfo, cpu: bool) -> torch.device:
    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _join_group(store: Store, place: RankInfo, device: torch.device, backend: str | None, timeout: timedelta) -> None:
    # A published command says nccl even where --cpu is added; on the CPU only gloo can do it.
    chosen = "gloo" if device.type == "cpu" else backend or "nccl"
    if chosen == "gloo" and "GLOO_SOCKET_IFNAME" not in os.environ:
        interface = interface_towards(rendezvous_host(place.init_method))
        if interface:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
    store.set_timeout(timeout)
    try:
        dist.init_process_group(chosen, store=store, rank=place.rank, world_size=place.world_size, timeout=timeout)
    except (RuntimeError, ValueError, OSError) as e:
        raise ConfigError(f"--distributed-backend {chosen} cannot join the ranks: {e}") from e
