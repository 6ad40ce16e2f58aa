"""Ranks as torchrun and Slurm start them, forked from one process that has imported torch already."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from w2v.inference.encode import ClipEncoder

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["w2v_cli.infer", "w2v_cli.tokenize"])


def torchrun_rank(rank: int, size: int, port: int) -> dict[str, str]:
    """Return what torchrun sets."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}}


def slurm_rank(rank: int, size: int, port: int) -> dict[str, str]:
    """Return what Slurm sets; without --distributed-port the port follows from the number of the job."""
    numbers = {"PROCID": rank, "LOCALID": rank, "NTASKS": size, "NNODES": 1, "JOB_ID": port % 20_000}
    return {"SLURM_JOB_NODELIST": "localhost", **{f"SLURM_{name}": str(value) for name, value in numbers.items()}}


def run_ranks(
    module: str, argv: Sequence[str], size: int, folder: Path, *, slurm: bool = False, kill: int | None = None
) -> list[tuple[int, str]]:
    """Run a program in `size` ranks; return their exit codes and what they said.

    Args:
        module: has the program's `main`.
        argv: its arguments.
        size: number of ranks.
        folder: keeps what they say, and `log`, with a letter for each clip that went through a model.
        slurm: give them Slurm's variables instead of torchrun's.
        kill: rank that dies in its second batch.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = slurm_rank if slurm else torchrun_rank
    said = [folder / f"said.{rank}" for rank in range(size)]
    processes = [
        _context.Process(
            target=_run, args=(module, list(argv), place(rank, size, port), str(said[rank]), str(folder), kill == rank)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [(process.exitcode or 0, text.read_text()) for process, text in zip(processes, said, strict=True)]


def computed(folder: Path) -> int:
    """Return how many clips went through a model since the last call."""
    log = folder / "log"
    number = len(log.read_text()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return number


def _run(module: str, argv: list[str], variables: dict[str, str], said: str, folder: str, is_mortal: bool) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(said, "w", buffering=1)  # noqa: SIM115 - ends with the process
    os.dup2(sys.stdout.fileno(), 2)
    real, calls = ClipEncoder.encode_clips, []

    def encode_clips(self, clips):  # type: ignore[no-untyped-def]
        calls.append(clips)
        if is_mortal and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(f"{folder}/log", "a") as log:
            log.write("x" * len(clips))
        return real(self, clips)

    ClipEncoder.encode_clips = encode_clips  # type: ignore[method-assign]
    code = importlib.import_module(module).main(argv)
    sys.stdout.flush()
    os._exit(code)
