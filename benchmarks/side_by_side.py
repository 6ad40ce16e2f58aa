"""Two programs that take turns: time of a step and peak memory, ours against a peer's.

Each side lives in a process of its own, so that memory is its own, and waits while the other one computes, so that
both see the same machine. Ratios are medians over rounds; absolute figures drift with the machine, ratios much less.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import machine, share_of_peak

Step = Callable[[], object]
"""Does the work of one round."""


@dataclass(frozen=True)
class Side:
    """What was measured of one program.

    Attributes:
        name: for the table.
        seconds: of each round.
        peak: largest resident memory of its process, in bytes.
    """

    name: str
    seconds: list[float]
    peak: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(
    sides: Sequence[tuple[str, Callable[..., Step], tuple[object, ...]]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Side]:
    """Measure several programs, interleaved.

    Args:
        sides: name, a function of a module that builds the step, and its arguments.
        rounds: measured steps of each.
        warm_up: steps before them.
        clock: tells the time; `time.process_time` leaves out what other programs do to the machine.
    """
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    for _, build, arguments in sides:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, clock, build, arguments), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
        ours.recv()  # one builds after the other
    seconds: list[list[float]] = [[] for _ in sides]
    for number in range(warm_up + rounds):
        for pipe, taken in zip(pipes, seconds, strict=True):
            pipe.send(True)
            value = pipe.recv()
            if number >= warm_up:
                taken.append(value)
    peaks = []
    for pipe in pipes:
        pipe.send(False)
        peaks.append(pipe.recv())
    for process in processes:
        process.join()
    return [Side(name, taken, peak) for (name, _, _), taken, peak in zip(sides, seconds, peaks, strict=True)]


def _serve(
    pipe: Connection, clock: Callable[[], float], build: Callable[..., Step], arguments: tuple[object, ...]
) -> None:
    step = build(*arguments)
    pipe.send(True)
    while pipe.recv():
        start = clock()
        step()
        pipe.send(clock() - start)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def step_parser(
    description: str, precision: str, clips: int | None, seconds: float, results: Path
) -> argparse.ArgumentParser:
    """Return a parser of the flags that all comparisons of training steps have."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--precision", choices=("bf16", "fp32"), default=precision)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=clips, help="default: 4; 2 for large models")
    parser.add_argument("--seconds", type=float, default=seconds, help="length of each clip")
    parser.add_argument("--record", action="store_true", help=f"write the figures to {results.name}")
    return parser


def plain_step(loss_of: Callable[[], Any], optimizer: Any, precision: str) -> Step:
    """Return a step as a training loop of one's own has it: forward under autocast, backward, update."""
    import torch

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def ratio(ours: Side, peer: Side) -> float:
    """Return how many times faster we are: the median over rounds of the peer's time by ours."""
    return statistics.median(theirs / mine for mine, theirs in zip(ours.seconds, peer.seconds, strict=True))


def record(path: Path, key: str, values: dict[str, object]) -> None:
    """Put the figures of one measurement, with the machine and the date, into a JSON file."""
    found = json.loads(path.read_text()) if path.exists() else {}
    found[key] = {**values, **machine()}
    path.write_text(json.dumps(found, indent=1) + "\n")


def tell(
    title: str,
    mine: Side,
    theirs: Side,
    audio: float,
    results: Path | None,
    *,
    gflop: float = 0.0,
    precision: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Print a comparison of training steps, and put it into a file if one is given.

    Args:
        title: what was compared.
        mine, theirs: our side and the peer's.
        audio: seconds of audio in a step.
        results: JSON file for the figures.
        gflop: products of a second of audio; 0: no share of the machine's peak is told.
        precision: number format of the products.
        clock: the one that both sides were measured with.
    """
    for side in (mine, theirs):
        print(f"{side.name:13} {side.median:7.2f} s  {audio / side.median:6.2f} audio-s/s  {side.peak / 1e9:5.2f} GB")
    faster, memory = ratio(mine, theirs), mine.peak / theirs.peak
    print(f"{title}: {faster:.2f} x as fast, {memory:.2f} x the memory")
    share = share_of_peak(audio / mine.median, gflop, precision, clock) if gflop else {}
    tell_machine(share)
    if results is not None:
        values: dict[str, object] = {
            "speed ratio": round(faster, 2), "memory ratio": round(memory, 2),
            "audio-seconds per second": round(audio / mine.median, 2),
            f"of {theirs.name}": round(audio / theirs.median, 2), **share,
        }  # fmt: skip
        record(results, title, values)


def tell_machine(share: dict[str, Any]) -> None:
    """Print processor and instructions, and how much of the peak of products was reached."""
    where = machine()
    print(f"{where['processor']}, {where['cores']} cores, {where['instructions']}")
    print("".join(f"{name}: {value}  " for name, value in share.items()).rstrip())
