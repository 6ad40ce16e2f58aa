"""A rank that dies, stops, fails, hangs or is cut off: the others say which one, end soon, and can be started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from child import assert_same, at_call, final_state, free_port, train_in_children

from w2v.distributed.process_group import process_group
from w2v.distributed.ranks import RankInfo
from w2v.errors import ConfigError, DataError

OPTIONS: dict[str, Any] = {
    "model": {"dropout": 0.2},
    "optimization": {"update_freq": [2], "max_update": 12},
    "checkpoint": {"save_interval_updates": 4, "keep_interval_updates": 1},
}


def at_update(number: int, act: Callable[[], Any]) -> Callable[[Any], None]:
    """Return a fault that strikes between the two micro-batches of an update."""
    return lambda trainer: at_call(2 * number, trainer.task, "train_step", act)


def signalled(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(("ranks", "faulty"), [(2, 1), (3, 0)])
def test_a_killed_rank_ends_the_others_and_the_run_goes_on(tmp_path: Path, ranks: int, faulty: int) -> None:
    whole = train_in_children(tmp_path / "whole", OPTIONS, ranks=ranks)
    assert [ended.code for ended in whole] == [0] * ranks, whole[0].log
    begin = time.monotonic()
    ended = train_in_children(
        tmp_path / "run", OPTIONS, at_update(6, signalled(signal.SIGKILL)), ranks=ranks, faulty=faulty
    )
    assert time.monotonic() - begin < 60
    for rank in set(range(ranks)) - {faulty}:
        assert ended[rank].code == 3, ended[rank].log
        assert ended[rank].log.count(f"error: rank {faulty} (process ") == 1, ended[rank].log
        assert "is gone: it was killed or has failed" in ended[rank].log
        assert "Traceback" not in ended[rank].log
    again = train_in_children(tmp_path / "run", OPTIONS, ranks=ranks)
    assert [one.code for one in again] == [0] * ranks, again[0].log
    assert " @ 4 updates)" in again[0].log
    if ranks == 2:  # sums over more are rounded in an order that depends on when DistributedDataParallel began
        assert_same(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))


@pytest.mark.parametrize("faulty", [0, 1])
def test_a_stopped_rank_is_noticed(tmp_path: Path, faulty: int) -> None:
    """Its connections stay open, and the main thread of the other waits in a sum over ranks."""
    ended = train_in_children(tmp_path, OPTIONS, at_update(3, signalled(signal.SIGSTOP)), faulty=faulty, timeout=4.0)
    assert [one.code for one in ended] == [3, 3]
    other = ended[1 - faulty].log
    assert f"error: rank {faulty} (process " in other
    assert "has not been heard of for 4 s (--heartbeat-timeout): it has been stopped, or its machine" in other
    assert f"rank {1 - faulty} (process " in ended[faulty].log  # set going again, it sees that it is alone
    assert "Traceback" not in other + ended[faulty].log


def test_a_failing_rank_gives_its_reason_to_all(tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("train.tsv:7: cannot be read")

    first, last = train_in_children(tmp_path, OPTIONS, at_update(3, fail), ranks=2)
    assert (first.code, last.code) == (2, 2)
    assert "error: rank 1 (process " in first.log
    assert first.log.strip().endswith("): train.tsv:7: cannot be read")
    assert last.log.count("error: train.tsv:7: cannot be read") == 1


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    first, last = train_in_children(tmp_path, OPTIONS, at_update(3, lambda: 1 // 0), ranks=2)
    assert (first.code, last.code) == (1, 1)
    assert "failed with ZeroDivisionError; its own output says more" in first.log
    assert "Traceback" not in first.log
    assert "ZeroDivisionError: integer" in last.log


def test_a_rank_that_lives_but_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heart beats, so only the limit on sums over ranks (half an hour) can tell."""
    monkeypatch.setattr("w2v.distributed.process_group.TIMEOUT", timedelta(seconds=3))
    first, last = train_in_children(tmp_path, OPTIONS, at_update(3, lambda: time.sleep(600)), ranks=2, timeout=2.0)
    assert (first.code, last.code) == (3, 3)
    assert ") has lost the others: " in first.log
    assert "Timed out waiting 3000ms" in first.log
    assert "Traceback" not in first.log
    assert "rank 0 (process " in last.log


def test_ranks_that_never_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have come give up together, and name the others."""
    method = f"tcp://127.0.0.1:{free_port()}"
    for module in ("process_group", "heartbeat"):
        monkeypatch.setattr(f"w2v.distributed.{module}.RENDEZVOUS_TIMEOUT", 1.5)
    ended = train_in_children(tmp_path, OPTIONS, find_rank=lambda rank: RankInfo(4, rank, rank, method))
    for one in ended:
        assert one.code == 2, one.log
        assert one.log == "error: ranks [2, 3] of 4 did not come within 1.5 s; their own output may say why\n"
    with (
        pytest.raises(ConfigError, match=f"^rank 1 cannot meet rank 0 at {method}: The client socket has timed out"),
        process_group(RankInfo(2, 1, 1, method), cpu=True),
    ):
        pass


@pytest.mark.parametrize(("num_batches", "num_valid"), [(1, 1), (2, 3), (5, 2)])
def test_uneven_shards_finish(tmp_path: Path, num_batches: int, num_valid: int) -> None:
    """Fewer batches than ranks, or a remainder; a rank with nothing to validate."""
    options = {**OPTIONS, "task": {"num_batches": num_batches, "num_valid": num_valid}}
    ended = train_in_children(tmp_path / "three", options, ranks=3)
    assert [one.code for one in ended] == [0, 0, 0], ended
    alone = {**options, "optimization": {**OPTIONS["optimization"], "update_freq": [6]}}
    (one,) = train_in_children(tmp_path / "one", alone, ranks=1)
    assert one.code == 0
    ours, theirs = (final_state(tmp_path / name) for name in ("three", "one"))
    assert ours["trainer"]["best"] == pytest.approx(theirs["trainer"]["best"], rel=1e-5)
    for name, tensor in theirs["model"].items():
        assert ours["model"][name].allclose(tensor, rtol=1e-5, atol=1e-6), name
