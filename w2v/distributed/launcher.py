"""Starts one process per rank on this machine, and ends all of them when one fails."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch

from w2v.distributed.child import end_with_parent, leave, report_to
from w2v.distributed.ranks import SPAWNED, RankInfo
from w2v.errors import W2vError
from w2v.system import ENDING_SIGNALS, KILLED

Entry = Callable[[list[str]], int]


class RankError(W2vError):
    """A spawned process failed; carries its message and its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch(entry: Entry, arguments: list[str], place: RankInfo) -> int:
    """Run `entry(arguments)` here, or once per process that `place` asks for.

    A spawned process finds torchrun's variables in its environment, so `entry` reads its arguments, imports
    plugins and calls `find_rank` as it would anywhere. `entry` must be a function of a module, by name.

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


def _child_variables(place: RankInfo, local: int) -> dict[str, str]:
    host, _, port = (place.init_method or "").removeprefix("tcp://").rpartition(":")
    variables = {
        "RANK": str(place.rank + local),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(local),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        SPAWNED: "1",
    }
    if "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // place.spawn))
    return variables


def _forwarded() -> Iterable[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return ()
    return [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


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
    why = ", perhaps because the machine ran out of memory" if code == KILLED else ""
    return f"was ended by {signal.Signals(-code).name}{why}"


def _report(reader: Any) -> None:
    try:
        message, code = reader.recv()
    except EOFError:  # every child has closed its end
        return
    raise RankError(message, code)


def _run_child(entry: Entry, arguments: list[str], variables: dict[str, str], writer: Any) -> None:
    report_to(writer)
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
    leave(message, code)
