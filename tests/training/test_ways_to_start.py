"""Variables of torchrun and Slurm, flags, processes of our own, one machine or two: always the same run."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import Ended, assert_same, at_call, final_state, free_port, train_in_children

from w2v.distributed.ranks import RankInfo, find_rank

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("toy_training.py")
OPTIONS: dict[str, Any] = {
    "model": {"dropout": 0.2},
    "optimization": {"max_update": 9},
    "checkpoint": {"save_interval_updates": 4, "keep_interval_updates": 1},
}
needs_torchrun = pytest.mark.skipif(importlib.util.find_spec("torch.distributed.run") is None, reason="no torchrun")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state at the end of an undisturbed run of two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    ended = train_in_children(folder, OPTIONS)
    assert [one.code for one in ended] == [0, 0], ended
    return final_state(folder)


def finished(ended: list[Ended]) -> bool:
    assert [one.code for one in ended] == [0] * len(ended), ended
    assert "training on 2 devices (cpu)" in ended[0].log
    return True


def by_variables(rank: int, **variables: Any) -> RankInfo:
    os.environ.update({name: str(value) for name, value in variables.items()})
    return find_rank(cpu=True)


def test_variables_of_torchrun(tmp_path: Path, whole: dict[str, Any]) -> None:
    port = free_port()

    def place(rank: int) -> RankInfo:
        return by_variables(rank, RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)

    assert finished(train_in_children(tmp_path, OPTIONS, find_rank=place))
    assert_same(final_state(tmp_path), whole)


def test_variables_of_slurm(tmp_path: Path, whole: dict[str, Any]) -> None:
    job = free_port() - 20_000  # the port follows from the number of the job

    def place(rank: int) -> RankInfo:
        return by_variables(
            rank, SLURM_PROCID=rank, SLURM_NTASKS=2, SLURM_LOCALID=0, SLURM_NNODES=2,
            SLURM_JOB_NODELIST="localhost,elsewhere", SLURM_JOB_ID=job,
        )  # fmt: skip

    assert finished(train_in_children(tmp_path, OPTIONS, find_rank=place))
    assert_same(final_state(tmp_path), whole)


def test_flags(tmp_path: Path, whole: dict[str, Any]) -> None:
    method = f"tcp://127.0.0.1:{free_port()}"

    def place(rank: int) -> RankInfo:
        return find_rank(world_size=2, rank=rank, init_method=method, cpu=True)

    assert finished(train_in_children(tmp_path, OPTIONS, find_rank=place))
    assert_same(final_state(tmp_path), whole)


# ------------------------------------------------------------------------------------- two machines


class TwoMachines:
    """Two network namespaces with a cable between them."""

    def __init__(self) -> None:
        self.names = [f"w2v{os.getpid()}{letter}" for letter in "ab"]
        self.cards = [name[-8:] + "v" for name in self.names]

    def plug(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", self.cards[0], "netns", self.names[0], "type", "veth", "peer", self.cards[1], "netns",
            self.names[1])  # fmt: skip
        for number, (name, card) in enumerate(zip(self.names, self.cards, strict=True), start=1):
            _ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", card)
            for device in ("lo", card):
                _ip("-n", name, "link", "set", device, "up")

    def unplug(self) -> None:
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)

    def place(self, port: int, rank: int) -> RankInfo:
        """Move this process to the machine of `rank`."""
        with open(f"/run/netns/{self.names[rank]}", "rb") as namespace:
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) == 0
        os.environ.pop("GLOO_SOCKET_IFNAME", None)  # of an earlier meeting in the parent, on another machine
        method = f"tcp://10.99.0.1:{port}"
        return find_rank(world_size=2, rank=rank, init_method=method, cpu=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    two = TwoMachines()
    try:
        two.plug()
    except FileNotFoundError:
        pytest.skip("there is no program `ip` (iproute2)")
    except subprocess.CalledProcessError as e:
        two.unplug()
        pytest.skip(f"network namespaces are not permitted here: {e.stderr.strip()}")
    yield two
    two.unplug()


def test_two_machines(tmp_path: Path, whole: dict[str, Any], machines: TwoMachines) -> None:
    place = functools.partial(machines.place, 29500)
    assert finished(train_in_children(tmp_path, OPTIONS, find_rank=place))
    assert_same(final_state(tmp_path), whole)


def test_a_cut_cable_ends_both_and_they_go_on(tmp_path: Path, whole: dict[str, Any], machines: TwoMachines) -> None:
    place = functools.partial(machines.place, 29501)

    def cut() -> None:
        _ip("link", "set", machines.cards[1], "down")

    fault: Callable[[Any], None] = lambda trainer: at_call(6, trainer.task, "train_step", cut)  # noqa: E731
    ended = train_in_children(tmp_path, OPTIONS, fault, timeout=4.0, find_rank=place)
    for rank in (0, 1):
        assert ended[rank].code == 3, ended[rank].log
        assert f"error: rank {1 - rank} (process " in ended[rank].log
        assert "has not been heard of for 4 s" in ended[rank].log
        assert "Traceback" not in ended[rank].log
    _ip("-n", machines.names[1], "link", "set", machines.cards[1], "up")
    assert finished(train_in_children(tmp_path, OPTIONS, find_rank=place))
    assert_same(final_state(tmp_path), whole)


# ---------------------------------------------------------------------------------------- torchrun


def torchruns(folder: Path, options: dict[str, Any], *arguments: str) -> str:
    """Run the toy under two launchers, with a rank each; return what they say."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *arguments]
    runs = [
        subprocess.Popen(
            [*command, "--node-rank", str(node), str(SCRIPT), str(folder), json.dumps(options)],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in (0, 1)
    ]  # fmt: skip
    logs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], logs
    log = "".join(logs)
    assert "training on 2 devices (cpu)" in log
    return log


@needs_torchrun
def test_two_torchruns(tmp_path: Path, whole: dict[str, Any]) -> None:
    torchruns(tmp_path, OPTIONS, "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    assert_same(final_state(tmp_path), whole)


@needs_torchrun
def test_two_torchruns_restart_after_a_kill(tmp_path: Path, whole: dict[str, Any]) -> None:
    """From the last checkpoint, to the state of the undisturbed run."""
    log = torchruns(
        tmp_path, {**OPTIONS, "task": {"kill_at": 7, "fail_rank": 1}}, "--rdzv-backend", "c10d", "--rdzv-endpoint",
        f"127.0.0.1:{free_port()}", "--max-restarts", "2", "--monitor-interval", "0.2",
    )  # fmt: skip
    assert re.search(r"error: rank 1 \(process \d+ on .*\) is gone", log), log
    assert re.search(r"loaded checkpoint .* @ 6 updates\)", log), log
    assert_same(final_state(tmp_path), whole)
