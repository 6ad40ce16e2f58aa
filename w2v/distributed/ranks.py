"""Which rank this process is: from torchrun's variables, from Slurm's, or from the `--distributed-*` flags."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import torch

from w2v.errors import ConfigError

logger = logging.getLogger(__name__)

SPAWNED = "W2V_SPAWNED"  # set by our launcher: flags were compared with the environment before
MOST_RANKS_ON_FEW_CORES = 8  # for trying things out; a published command's 64 would bring a laptop down


@dataclass(frozen=True)
class RankInfo:
    """Where a process stands.

    Attributes:
        world_size: processes in all.
        rank: number of this process, or of the first one that is to be spawned here.
        local_rank: number of its GPU on this machine.
        init_method: how the processes meet; None for a single process.
        spawn: processes to be started on this machine; 0: this process does the work itself.
        source: what says how many ranks there are, and what to do if they do not come; for messages.
    """

    world_size: int = 1
    rank: int = 0
    local_rank: int = 0
    init_method: str | None = None
    spawn: int = 0
    source: str = field(default="", compare=False)


def find_rank(
    *,
    world_size: int | None = None,
    rank: int = 0,
    init_method: str | None = None,
    port: int = -1,
    no_spawn: bool = False,
    device_id: int = 0,
    cpu: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> RankInfo:
    """Work out from flags and environment how this process takes part.

    Arguments are the `--distributed-*` flags without their prefix. Variables of torchrun (or of our own parent) come
    before Slurm's, and both before defaults; an empty variable is as none. A flag that says something else than the
    variables is refused.

    Raises:
        ConfigError: the numbers do not fit together, or there are fewer GPUs (without any: cores) than processes.
    """
    gpus = 0 if cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    environ = {name: value.strip() for name, value in environ.items() if value.strip()}
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _checked(_torchrun_rank(environ, world_size, rank, init_method, device_id, gpus), gpus)
    if init_method is None and _under_slurm(environ, port, world_size):
        return _checked(_slurm_rank(environ, port, gpus, world_size, no_spawn), gpus)
    size = world_size if world_size is not None else 1 if no_spawn else max(gpus, 1)
    if init_method is not None and size > 1:
        return _checked(_flag_rank(size, rank, init_method, no_spawn, device_id, gpus), gpus)
    if size == 1:
        return _checked(RankInfo(rank=rank, local_rank=device_id), gpus)
    if no_spawn:
        raise ConfigError(
            f"--distributed-no-spawn with --distributed-world-size {size} needs --distributed-init-method and "
            "--distributed-rank, or the variables of torchrun or Slurm"
        )
    return _checked(RankInfo(size, 0, 0, f"tcp://127.0.0.1:{_port(port)}", spawn=size), gpus)


def _checked(place: RankInfo, gpus: int) -> RankInfo:
    if not 0 <= place.rank < place.world_size:
        raise ConfigError(f"--distributed-rank must lie in [0, {place.world_size - 1}], got {place.rank}")
    if gpus and place.spawn > gpus:
        raise ConfigError(
            f"--distributed-world-size {place.world_size} asks for {place.spawn} processes on this machine, which has "
            f"{gpus} GPU{'s' if gpus > 1 else ''}; --distributed-world-size {gpus} --update-freq "
            f"{-(-place.spawn // gpus)} makes updates of about the same size, or start it with torchrun or Slurm on "
            "more machines"
        )
    cores = os.cpu_count() or 1
    if not gpus and place.spawn > max(cores, MOST_RANKS_ON_FEW_CORES):
        raise ConfigError(
            f"--distributed-world-size {place.world_size} asks for {place.spawn} processes on this machine, which has "
            f"no usable GPU and {cores} CPU core{'s' if cores > 1 else ''}; --distributed-world-size 1 --update-freq "
            f"{place.world_size} makes updates of the same size"
        )
    if gpus and not place.spawn and place.local_rank >= gpus:
        raise ConfigError(f"process {place.rank} wants GPU {place.local_rank}, but this machine has {gpus}")
    return place


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as e:
        raise ConfigError(f"the environment's {name} must be a whole number, got {text!r}; unset {name}") from e


def _torchrun_rank(
    environ: Mapping[str, str], world_size: int | None, rank: int, init_method: str | None, device_id: int, gpus: int
) -> RankInfo:
    size, number = _number(environ, "WORLD_SIZE", 1), _number(environ, "RANK", 0)
    local = _number(environ, "LOCAL_RANK", device_id)
    remedy = "leave the flag out, or run the command with: env -u RANK -u WORLD_SIZE -u LOCAL_RANK"
    method = "env://"
    if SPAWNED not in environ:
        if world_size is not None and world_size != size:
            raise ConfigError(
                f"--distributed-world-size {world_size}, but WORLD_SIZE={size} in the environment; {remedy}"
            )
        if rank not in (0, number):
            raise ConfigError(f"--distributed-rank {rank}, but RANK={number} in the environment; {remedy}")
        given = urlsplit(init_method or "")
        address = environ.get("MASTER_ADDR")
        if given.scheme == "tcp" and address not in (None, given.hostname):
            raise ConfigError(f"--distributed-init-method {init_method}, but MASTER_ADDR={address} in the environment")
        if init_method is not None and address is None:
            method = init_method
        if size == 1 and gpus > 1:
            logger.warning("one of %d GPUs is used, because the environment has WORLD_SIZE=1", gpus)
    source = f"WORLD_SIZE={size} in the environment; start the others too, or run it with: env -u RANK -u WORLD_SIZE"
    return RankInfo(size, number, local, method, source=source)


def _flag_rank(size: int, rank: int, init_method: str, no_spawn: bool, device_id: int, gpus: int) -> RankInfo:
    if no_spawn or gpus <= 1:
        source = f"--distributed-world-size {size}; start the command for each of them, with its --distributed-rank"
        return RankInfo(size, rank, device_id, init_method, source=source)
    # As in the original: one command per machine, `--distributed-rank` numbers the first of its GPUs.
    return RankInfo(size, rank, 0, init_method, spawn=min(gpus, size - rank))


def _under_slurm(environ: Mapping[str, str], port: int, world_size: int | None) -> bool:
    if "SLURM_PROCID" not in environ or _slurm_nodes(environ) is None:
        return False
    if world_size == 1 and _number(environ, "SLURM_STEP_NUM_TASKS", 1) == 1:
        return False  # a batch script without srun is one process, however many tasks its job could have
    return port > 0 or _number(environ, "SLURM_NTASKS", 1) > 1


def _slurm_nodes(environ: Mapping[str, str]) -> str | None:
    return environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")


def _slurm_rank(environ: Mapping[str, str], port: int, gpus: int, world_size: int | None, no_spawn: bool) -> RankInfo:
    tasks = _number(environ, "SLURM_NTASKS", 1)
    nodes = _number(environ, "SLURM_NNODES", _number(environ, "SLURM_JOB_NUM_NODES", 1))
    spawns = tasks == nodes and gpus > 1 and not no_spawn
    total = nodes * gpus if spawns else tasks
    if world_size not in (None, total):
        raise ConfigError(
            f"--distributed-world-size {world_size}, but SLURM_NTASKS={tasks} in the environment makes {total} ranks; "
            "leave the flag out, or ask Slurm for as many tasks (--ntasks)"
        )
    source = f"SLURM_NTASKS={tasks} in the environment; start it with srun, or give --distributed-world-size 1"
    host = first_host(_slurm_nodes(environ) or "127.0.0.1")
    # Without --distributed-port all tasks of a job must come to the same number by themselves.
    number = port if port > 0 else 20_000 + _number(environ, "SLURM_JOB_ID", 0) % 20_000
    method = f"tcp://{host}:{number}"
    task = _number(environ, "SLURM_PROCID", 0)
    if spawns:
        # One task per machine: it starts one process per GPU.
        return RankInfo(total, task * gpus, 0, method, spawn=gpus, source=source)
    if tasks == 1:
        return RankInfo(local_rank=0)
    # With --gpus-per-task 1 every task sees one GPU only, whose number is 0.
    return RankInfo(tasks, task, _number(environ, "SLURM_LOCALID", 0) if gpus != 1 else 0, method, source=source)


def first_host(nodes: str) -> str:
    """Return the first name of a Slurm node list such as `node[003-010,12],gpu7`.

    Raises:
        ConfigError: the list has another form.
    """
    found = re.match(r"([^,\[\]]+)(?:\[(\w+)[^\]]*\]([^,\[\]]*))?", nodes)
    if found is None:
        raise ConfigError(f"SLURM_JOB_NODELIST: cannot read the first host of {nodes!r}")
    return found[1] + (found[2] or "") + (found[3] or "")


def _port(port: int) -> int:
    if port > 0:
        return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number
