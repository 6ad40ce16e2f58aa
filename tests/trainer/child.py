"""The toy run in a child process that is forked, so that it may be killed without the seconds that imports take."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from toy_training import make_trainer

from w2v.checkpoint import load_checkpoint
from w2v.errors import W2vError
from w2v.progress import set_up_logging

SIGNALLED = 256


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
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            with open(log, "w") as stream:
                set_up_logging(is_master=True, stream=stream)
                try:
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
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text())


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
    for window in ("now", "train_inner", "train"):
        for name in ("seconds", "train_wall"):
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
