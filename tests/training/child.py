"""The toy run in child processes that are forked, so that they may be killed without the seconds that imports take."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch._dynamo  # DistributedDataParallel imports it, for a second: here once, not in every child
from toy_training import make_trainer

from w2v.checkpoint.file import load_checkpoint
from w2v.distributed.process_group import process_group
from w2v.distributed.ranks import RankInfo
from w2v.errors import W2vError
from w2v_cli.progress import set_up_logging


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: its exit code, or minus the signal that killed it.
        log: what it logged.
    """

    code: int
    log: str


def train_in_child(folder: Path, options: Mapping[str, Any], fault: Callable[[Any], None] | None = None) -> Ended:
    """Train the toy in a child; `fault` may spoil the trainer, or anything else, beforehand."""
    (ended,) = train_in_children(folder, options, fault, ranks=1)
    return ended


def train_in_children(
    folder: Path,
    options: Mapping[str, Any],
    fault: Callable[[Any], None] | None = None,
    ranks: int = 2,
    *,
    faulty: int | None = None,
    timeout: float = 60.0,
    find_rank: Callable[[int], RankInfo] | None = None,
    others: Callable[[Any], None] | None = None,
) -> list[Ended]:
    """Train the toy on several ranks, of which one (normally the last) has the fault.

    `find_rank` is called in each child with its rank, and may change the child's surroundings; `others` changes the
    trainers of the ranks without the fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    faulty = ranks - 1 if faulty is None else faulty
    method = f"tcp://127.0.0.1:{free_port()}"
    children = {}
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            place = find_rank(rank) if find_rank else RankInfo(ranks, rank, rank, method)
            _train(place, folder, options, fault if rank == faulty else others, timeout)
        children[rank] = child
    # The faulty one last: if it has stopped, it may go on when the others have ended.
    codes = {}
    for rank in sorted(children, key=lambda rank: rank == faulty):
        if rank == faulty:
            os.kill(children[rank], signal.SIGCONT)
        codes[rank] = os.waitstatus_to_exitcode(os.waitpid(children[rank], 0)[1])
    return [Ended(codes[rank], (folder / f"log{rank}.txt").read_text()) for rank in range(ranks)]


def free_port() -> int:
    """Return a port of this machine that nobody uses, out of those that are never given to outgoing connections."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _train(
    place: RankInfo,
    folder: Path,
    options: Mapping[str, Any],
    fault: Callable[[Any], None] | None,
    timeout: float,
) -> NoReturn:
    code = 1
    log = folder / f"log{place.rank}.txt"
    log.unlink(missing_ok=True)
    try:
        torch.set_num_threads(1)
        with open(log, "a") as stream:
            os.dup2(stream.fileno(), 2)  # what is said by a process that leaves at once
            set_up_logging(is_master=place.rank == 0, stream=stream)
            try:
                with process_group(place, cpu=True, timeout=timeout):
                    trainer = make_trainer(folder, options)
                    if fault is not None:
                        fault(trainer)
                    trainer.train()
                code = 0
            except W2vError as e:
                stream.write(f"error: {e}\n")
                code = e.exit_code
            except BaseException:
                traceback.print_exc(file=stream)
    finally:
        os._exit(code)


def at_call(number: int, target: Any, name: str, act: Callable[[], Any]) -> None:
    """Call `act` in the middle of call `number` (from 1) of a function: before the function does its work."""
    original, calls = getattr(target, name), []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            act()
        return original(*args, **kwargs)

    setattr(target, name, called)


def final_state(folder: Path) -> dict[str, Any]:
    """Return all of `checkpoint_last.pt` that does not tell the time."""
    state = load_checkpoint(folder / "checkpoint_last.pt")
    for name in ("start", "run"):  # a number of its own for each start, and a random word for each run
        state["trainer"].pop(name, None)
    for window in ("now", "train_inner", "train"):
        for name in ("seconds", "train_wall", "data_wait"):
            state["metrics"][window]["steps"].pop(name, None)
    return state


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Compare nested data to the bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            assert_same(one[key], other[key], f"{place}/{key}")
    else:
        assert one == other, place
