"""Several processes: who we are, sums over all of us, and how the processes are started.

Everything is a no-op for one process. A process learns its place from torchrun's variables, from Slurm's, from
`--distributed-init-method` and `--distributed-rank`, or is a child of `launch`, which hands torchrun's variables
to the processes that it spawns: the four ways are the same run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from w2v.errors import ConfigError, TrainingError, W2vError
from w2v.heartbeat import MEETING, Heartbeat, accept_all, connect, listen
from w2v.meeting import interface_towards, meeting_host, meeting_store

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

TIMEOUT = timedelta(minutes=30)  # validation and the writing of checkpoints happen between two collectives
PATIENCE = 60.0  # seconds; what --heartbeat-timeout is by default
MOST_RANKS_ON_FEW_CORES = 8  # for trying things out; a published command's 64 would bring a laptop down
GRACE = 10.0  # seconds that a failed process waits to be ended by its parent
Entry = Callable[[list[str]], int]


# ------------------------------------------------------------------------------------------- collectives


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


# --------------------------------------------------------------------------------------------- our place


@dataclass(frozen=True)
class Place:
    """Where a process stands.

    Attributes:
        world_size: processes in all.
        rank: number of this process, or of the first one that is to be spawned here.
        local_rank: number of its GPU on this machine.
        init_method: how the processes meet; None for a single process.
        spawn: processes to be started on this machine; 0: this process does the work itself.
    """

    world_size: int = 1
    rank: int = 0
    local_rank: int = 0
    init_method: str | None = None
    spawn: int = 0


def find_place(
    *,
    world_size: int | None = None,
    rank: int = 0,
    init_method: str | None = None,
    port: int = -1,
    no_spawn: bool = False,
    device_id: int = 0,
    cpu: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Place:
    """Work out from flags and environment how this process takes part.

    Arguments are the `--distributed-*` flags without their prefix. Variables of torchrun (or of our own parent)
    win over Slurm's, and both over flags.

    Raises:
        ConfigError: the numbers do not fit together, or there are fewer GPUs (without any: cores) than processes.
    """
    gpus = 0 if cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    if "RANK" in environ and "WORLD_SIZE" in environ:
        local = int(environ.get("LOCAL_RANK", device_id))
        return _checked(Place(int(environ["WORLD_SIZE"]), int(environ["RANK"]), local, "env://"), gpus)
    if init_method is None and _under_slurm(environ, port):
        return _checked(_slurm_place(environ, port, gpus), gpus)
    size = world_size if world_size is not None else 1 if no_spawn else max(gpus, 1)
    if init_method is not None and size > 1:
        return _checked(_flag_place(size, rank, init_method, no_spawn, device_id, gpus), gpus)
    if size == 1:
        return _checked(Place(rank=rank, local_rank=device_id), gpus)
    if no_spawn:
        raise ConfigError(
            f"--distributed-no-spawn with --distributed-world-size {size} needs --distributed-init-method and "
            "--distributed-rank, or the variables of torchrun or Slurm"
        )
    return _checked(Place(size, 0, 0, f"tcp://127.0.0.1:{_port(port)}", spawn=size), gpus)


def _checked(place: Place, gpus: int) -> Place:
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


def _flag_place(size: int, rank: int, init_method: str, no_spawn: bool, device_id: int, gpus: int) -> Place:
    if no_spawn or gpus <= 1:
        return Place(size, rank, device_id, init_method)
    # As in the original: one command per machine, `--distributed-rank` numbers the first of its GPUs.
    return Place(size, rank, 0, init_method, spawn=min(gpus, size - rank))


def _under_slurm(environ: Mapping[str, str], port: int) -> bool:
    if "SLURM_PROCID" not in environ or _slurm_nodes(environ) is None:
        return False
    return port > 0 or int(environ.get("SLURM_NTASKS", "1")) > 1


def _slurm_nodes(environ: Mapping[str, str]) -> str | None:
    return environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")


def _slurm_place(environ: Mapping[str, str], port: int, gpus: int) -> Place:
    tasks = int(environ.get("SLURM_NTASKS", "1"))
    nodes = int(environ.get("SLURM_NNODES", environ.get("SLURM_JOB_NUM_NODES", "1")))
    host = first_host(_slurm_nodes(environ) or "127.0.0.1")
    # Without --distributed-port all tasks of a job must come to the same number by themselves.
    number = port if port > 0 else 20_000 + int(environ.get("SLURM_JOB_ID", "0")) % 20_000
    method = f"tcp://{host}:{number}"
    task = int(environ["SLURM_PROCID"])
    if tasks == nodes and gpus > 1:
        # One task per machine: it starts one process per GPU.
        return Place(nodes * gpus, task * gpus, 0, method, spawn=gpus)
    if tasks == 1:
        return Place(local_rank=0)
    # With --gpus-per-task 1 every task sees one GPU only, whose number is 0.
    return Place(tasks, task, int(environ.get("SLURM_LOCALID", "0")) if gpus != 1 else 0, method)


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


@contextlib.contextmanager
def joined(
    place: Place, *, cpu: bool = False, backend: str | None = None, patience: float = PATIENCE
) -> Iterator[torch.device]:
    """Take part in a run, in a `with` statement: join the other processes, and leave them in good order.

    While it lasts, the loss of any process ends all of them with a line that names it and exit code 3; an error that
    leaves the block ends the others with the same line and exit code.

    Args:
        place: result of `find_place`.
        cpu: never use CUDA.
        backend: `nccl` or `gloo`; None: whichever fits the device.
        patience: seconds that a process may be silent (`--heartbeat-timeout`).

    Yields:
        the device of this process.

    Raises:
        ConfigError: the other processes cannot be met.
        TrainingError: the connection with them is lost.
    """
    if place.world_size == 1:
        yield _device(place, cpu)
        return
    store, heartbeat, us = _meet(place, patience)
    try:
        device = _device(place, cpu)
        _join_group(store, place, device, backend)
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


def _meet(place: Place, patience: float) -> tuple[Store, Heartbeat, str]:
    """Wait until all processes have come; return their store, what watches over them, and what this one is called."""
    method = place.init_method or ""
    us = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        store = meeting_store(method, place.rank, place.world_size, timedelta(seconds=MEETING))
        if place.rank == 0:
            with listen() as server:
                token = secrets.token_hex(16)
                store.set("w2v/door", f"{server.getsockname()[1]} {token}")
                links, cards = accept_all(server, place.world_size, token, us)
        else:
            port, token = store.get("w2v/door").decode().split()
            links, cards = connect(meeting_host(method), int(port), place.rank, token, us)
    except (RuntimeError, ValueError, OSError) as e:
        where = f"open the meeting at {method}" if place.rank == 0 else f"meet rank 0 at {method}"
        raise ConfigError(f"rank {place.rank} cannot {where}: {str(e).partition(chr(10))[0]}") from e
    store.set_timeout(TIMEOUT)
    names = [f"rank {number} ({card})" for number, card in enumerate(cards)]
    return store, Heartbeat(links, names, patience, _leave), names[place.rank]


def _device(place: Place, cpu: bool) -> torch.device:
    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _join_group(store: Store, place: Place, device: torch.device, backend: str | None) -> None:
    # A published command says nccl even where --cpu is added; on the CPU only gloo can do it.
    chosen = "gloo" if device.type == "cpu" else backend or "nccl"
    if chosen == "gloo" and "GLOO_SOCKET_IFNAME" not in os.environ:
        interface = interface_towards(meeting_host(place.init_method))
        if interface:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
    try:
        dist.init_process_group(chosen, store=store, rank=place.rank, world_size=place.world_size, timeout=TIMEOUT)
    except (RuntimeError, ValueError, OSError) as e:
        raise ConfigError(f"--distributed-backend {chosen} cannot join the ranks: {e}") from e


# --------------------------------------------------------------------------------------------- spawning


class RankError(W2vError):
    """A spawned process failed; carries its message and its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_parent: Any = None  # where a spawned process tells its parent why it ends


def _leave(message: str, code: int) -> None:
    """End this process at once, from whichever thread."""
    if _parent is None:
        os.write(2, f"error: {message}\n".encode())
    else:
        _parent.send((message, code))
        # The parent ends all processes now, this one too: were it gone before the others, they would complain in turn.
        time.sleep(GRACE)
    os._exit(code)


def launch(entry: Entry, arguments: list[str], place: Place) -> int:
    """Run `entry(arguments)` here, or once per process that `place` asks for.

    A spawned process finds torchrun's variables in its environment, so `entry` reads its arguments, imports
    plugins and calls `find_place` as it would anywhere. `entry` must be a function of a module, by name.

    Returns:
        the exit code: that of `entry`, or 0 if all processes returned 0.

    Raises:
        RankError: a process failed; the others have been ended.
    """
    if not place.spawn:
        return entry(arguments)
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    children = []
    for local in range(place.spawn):
        variables = _child_variables(place, local)
        name = f"rank {variables['RANK']}"
        child = context.Process(target=_run_child, args=(entry, arguments, variables, writer), name=name)
        children.append(child)
    handlers = {number: signal.signal(number, _forward(children)) for number in _forwarded()}
    try:
        for child in children:
            child.start()
        writer.close()
        return _wait(children, reader)
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _child_variables(place: Place, local: int) -> dict[str, str]:
    host, _, port = (place.init_method or "").removeprefix("tcp://").rpartition(":")
    variables = {
        "RANK": str(place.rank + local),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(local),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    if "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // place.spawn))
    return variables


def _forwarded() -> Iterable[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return ()
    return (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def _forward(children: list[Any]) -> Callable[[int, Any], None]:
    def handler(number: int, frame: Any) -> None:
        # On Ctrl-C the terminal has signalled the children already, and a second SIGINT makes them leave at once:
        # SIGTERM, which asks for the same orderly end, may come twice.
        for child in children:
            if child.is_alive() and child.pid is not None:
                os.kill(child.pid, signal.SIGTERM if number == signal.SIGINT else number)

    return handler


def _wait(children: list[Any], reader: Any) -> int:
    """Return 0 once all children have; end them all and raise as soon as one fails."""
    running = {child.sentinel: child for child in children}
    while running:
        ready = multiprocessing.connection.wait([reader, *running])
        # A child that was killed first: what the others have to say of it is only that it is gone.
        for child in [running.pop(sentinel) for sentinel in ready if sentinel in running]:
            child.join()
            if child.exitcode:
                raise RankError(f"{child.name} (process {child.pid}) {_how_ended(child.exitcode)}", 1)
        if reader in ready:
            _report(reader)
    return 0


def _how_ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    why = ", perhaps because the machine ran out of memory" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{why}"


def _report(reader: Any) -> None:
    try:
        message, code = reader.recv()
    except EOFError:  # every child has closed its end
        return
    raise RankError(message, code)


def _run_child(entry: Entry, arguments: list[str], variables: dict[str, str], writer: Any) -> None:
    global _parent
    _parent = writer
    os.environ.update(variables)
    if "OMP_NUM_THREADS" in variables:
        torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    end_with_parent()
    try:
        code = entry(arguments)
        message = f"process {variables['RANK']} ended with code {code}"
    except W2vError as e:
        # The parent shows it; all children may well have the same complaint.
        code, message = e.exit_code, str(e)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except BaseException as e:
        traceback.print_exc()
        code, message = 1, f"process {variables['RANK']} failed with {type(e).__name__}; its traceback is above"
    if code == 0:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _leave(message, code)


def end_with_parent() -> None:
    """Leave when the parent has been killed: nobody is left to tell this process, spawned or forked, to end."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
