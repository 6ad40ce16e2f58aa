"""How a process finds its place: variables of torchrun and Slurm, flags, processes of our own."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Any

import pytest
import torch

from w2v.distributed import any_rank, gather_objects, sum_dicts_across_ranks
from w2v.distributed.launcher import RankError, launch
from w2v.distributed.ranks import SPAWNED, RankInfo, find_rank, first_host
from w2v.errors import ConfigError, DataError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
SLURM = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_NNODES": "4",
    "SLURM_JOB_NODELIST": "gpu[003-006]", "SLURM_JOB_ID": "4711",
}  # fmt: skip


def gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


def place(environ: dict[str, str] | None = None, **flags: Any) -> RankInfo:
    return find_rank(environ=environ or {}, **flags)


def test_one_process_is_the_default() -> None:
    assert place(cpu=True) == RankInfo()


def test_torchrun_wins_over_slurm() -> None:
    assert place({**SLURM, **TORCHRUN}, cpu=True) == RankInfo(8, 3, 1, "env://")
    assert place(TORCHRUN, cpu=True, world_size=8, rank=3) == RankInfo(8, 3, 1, "env://")


@pytest.mark.parametrize(
    ("environ", "flags", "both"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1"}, {"world_size": 2}, "--distributed-world-size 2, but WORLD_SIZE=1"),
        (TORCHRUN, {"world_size": 64}, "--distributed-world-size 64, but WORLD_SIZE=8"),
        (TORCHRUN, {"world_size": 8, "rank": 2}, "--distributed-rank 2, but RANK=3"),
        (TORCHRUN, {"init_method": "tcp://other:1"}, "--distributed-init-method tcp://other:1, but MASTER_ADDR=h"),
        (SLURM, {"world_size": 2}, "--distributed-world-size 2, but SLURM_NTASKS=16"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "16"}, {"world_size": 1}, "--distributed-world-size 1, but SLURM_NTASKS=16"),
    ],
)
def test_flags_against_the_environment_are_refused_with_both_values(
    environ: dict[str, str], flags: dict[str, Any], both: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(both)):
        place(environ, cpu=True, **flags)


def test_what_our_launcher_has_compared_is_not_compared_again() -> None:
    environ = {**TORCHRUN, SPAWNED: "1"}
    assert place(environ, cpu=True, world_size=8, rank=2, init_method="tcp://h:1").rank == 3


def test_a_batch_script_without_srun_may_say_that_it_is_alone() -> None:
    assert place({**SLURM, "SLURM_PROCID": "0"}, cpu=True, world_size=1) == RankInfo()


@pytest.mark.parametrize(
    "names", [("RANK", "WORLD_SIZE"), ("RANK",), ("LOCAL_RANK",), ("SLURM_PROCID", "SLURM_NTASKS")]
)
def test_empty_variables_are_as_none(names: tuple[str, ...]) -> None:
    assert place(dict.fromkeys(names, " "), cpu=True) == RankInfo()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_variables_that_are_no_numbers_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the environment's {name} must be a whole number, got 'one'"):
        place({**TORCHRUN, name: "one"}, cpu=True)


def test_what_makes_the_number_of_ranks_is_told_with_the_remedy() -> None:
    assert "SLURM_NTASKS=16" in place(SLURM, cpu=True).source
    assert "srun" in place(SLURM, cpu=True).source
    assert "env -u RANK -u WORLD_SIZE" in place(TORCHRUN, cpu=True).source
    assert "--distributed-rank" in place(cpu=True, world_size=2, init_method="tcp://h:1").source


def test_slurm() -> None:
    assert place(SLURM, cpu=True, world_size=16) == RankInfo(16, 5, 1, "tcp://gpu003:24711")
    assert place(SLURM, cpu=True, port=29500) == RankInfo(16, 5, 1, "tcp://gpu003:29500")
    alone = {**SLURM, "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0"}
    assert place(alone, cpu=True, port=29500) == RankInfo()


def test_a_slurm_task_that_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    assert place(SLURM, port=29500) == RankInfo(16, 5, 0, "tcp://gpu003:29500")


def test_a_slurm_task_per_machine_starts_a_process_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 8)
    environ = {**SLURM, "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}
    assert place(environ, port=29500) == RankInfo(32, 16, 0, "tcp://gpu003:29500", spawn=8)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu[003-010,12],cpu7", "gpu003"),
        ("a,b", "a"),
        ("n[1,3]-ib", "n1-ib"),
        ("x-1-[07]", "x-1-07"),
    ],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = {"world_size": 4, "rank": 2, "init_method": "tcp://h:1"}
    assert place(cpu=True, **by_hand) == RankInfo(4, 2, 0, "tcp://h:1")
    assert place(cpu=True, world_size=3).spawn == 3
    assert place(cpu=True, world_size=2, port=29501).init_method == "tcp://127.0.0.1:29501"
    gpus(monkeypatch, 2)
    assert place().spawn == 2
    assert place(cpu=True).spawn == 0
    assert place(**by_hand) == RankInfo(4, 2, 0, "tcp://h:1", spawn=2)
    assert place(**by_hand, no_spawn=True, device_id=1) == RankInfo(4, 2, 1, "tcp://h:1")


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 8)
    with pytest.raises(ConfigError, match=r"--distributed-world-size 64 .* 8 GPUs; .*--update-freq 8"):
        place(world_size=64)
    with pytest.raises(ConfigError, match="wants GPU 9, but this machine has 8"):
        place({**TORCHRUN, "WORLD_SIZE": "16", "LOCAL_RANK": "9"})


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="--distributed-no-spawn"):
        place(cpu=True, world_size=2, no_spawn=True)
    with pytest.raises(ConfigError, match="--distributed-rank"):
        place(cpu=True, world_size=2, rank=2, init_method="tcp://h:1")


def test_collectives_of_a_single_process() -> None:
    assert gather_objects("x") == ["x"]
    assert sum_dicts_across_ranks({"a": 1.0}) == {"a": 1.0}
    assert any_rank(True)
    assert not any_rank(False)


# --------------------------------------------------------------------------------- processes of our own


def one_of_two(arguments: list[str]) -> int:
    """What a spawned process does: the second one ends as it is told to, while the first one would go on."""
    if os.environ["RANK"] == "0":
        time.sleep(100)
    elif arguments == ["killed"]:
        os.kill(os.getpid(), signal.SIGKILL)
    elif arguments == ["fails"]:
        raise DataError("train.tsv:7: cannot be read")
    return 7


@pytest.mark.parametrize(
    ("how", "message", "code"),
    [
        ("killed", r"rank 1 \(process \d+\) was ended by SIGKILL, perhaps because the machine ran out of memory", 1),
        ("fails", r"train\.tsv:7: cannot be read", 2),
    ],
    ids=["killed", "fails"],
)
def test_a_process_that_ends_ends_the_other(how: str, message: str, code: int) -> None:
    begin = time.monotonic()
    with pytest.raises(RankError, match=f"^{message}$") as caught:
        launch(one_of_two, [how], RankInfo(2, 0, 0, "tcp://127.0.0.1:1", spawn=2))
    assert caught.value.exit_code == code
    assert time.monotonic() - begin < 60
