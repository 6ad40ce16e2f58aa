"""Workers with little shared memory or few file descriptors: the same batches, and one line that says so."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.data import worker_limits
from w2v.data.dataset import BatchDataset
from w2v.data.iterator import iterate
from w2v.data.worker_limits import WorkerPlan, plan_workers
from w2v.errors import DataError
from w2v.types import AudioBatch

REPOSITORY = Path(__file__).resolve().parents[2]


class Noise(BatchDataset):
    """Batches of 40 kB, made in the memory that the program would use for audio."""

    def batch(self, indices: Any, seed: int) -> AudioBatch:
        from w2v.data.dataset import _rows

        if seed == 99:
            raise DataError("a.flac: cannot be read")
        source = _rows(len(indices), 5000)
        source.copy_(torch.randn(source.shape, generator=torch.Generator().manual_seed(seed)))
        return AudioBatch(source, torch.tensor([5000] * len(indices)), torch.tensor(indices), seed)

    def batch_bytes(self, batches: Any) -> int:
        return 40_000


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_limits, "_said", set())


def read(num_workers: int) -> list[torch.Tensor]:
    batches = [np.array([2 * n, 2 * n + 1]) for n in range(12)]
    return [batch.source for batch in iterate(Noise(), batches, range(12), num_workers=num_workers)]


def test_little_shared_memory_is_told_of_and_changes_no_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = read(0)
    monkeypatch.setattr(worker_limits, "_free_shared_memory", lambda: 50_000)
    found = read(2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    (line,) = caplog.messages
    for part in ("/dev/shm has 0.05 MB free", "2 workers", "--shm-size", "--num-workers 0"):
        assert part in line
    read(2)
    assert len(caplog.messages) == 1


def test_shared_memory_that_is_full_later_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where another program fills it: the check at the start has found enough."""
    expected = read(0)

    def full(size: int) -> Any:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    found = read(2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert ["/dev/shm is full" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_errors_come_through_pipes(monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    monkeypatch.setattr(worker_limits, "_free_shared_memory", lambda: 0)
    with pytest.raises(DataError, match=r"a\.flac: cannot be read"):
        list(iterate(Noise(), [np.array([1, 2])], [99], num_workers=num_workers))


def test_enough_of_both_is_as_asked_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(worker_limits, "_free_shared_memory", lambda: None)
    monkeypatch.setattr(worker_limits, "raise_open_files", lambda wanted: wanted)
    assert plan_workers(4, 2, 10**9) == WorkerPlan(4)
    assert plan_workers(0, 0, 10**9) == WorkerPlan(0)
    assert not caplog.messages


@pytest.mark.parametrize(("room", "workers"), [(1000, 8), (45, 4), (9, 0)])
def test_few_descriptors_leave_fewer_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: int, workers: int
) -> None:
    limit = worker_limits._open_files() + worker_limits.SPARE_FILES + room
    monkeypatch.setattr(worker_limits, "_free_shared_memory", lambda: None)
    monkeypatch.setattr(worker_limits, "_open_files", lambda: limit - worker_limits.SPARE_FILES - room)
    monkeypatch.setattr(worker_limits, "raise_open_files", lambda wanted: limit)
    plan = plan_workers(8, 20, 0)
    assert plan == WorkerPlan(workers, through_pipes=True)
    (line,) = caplog.messages
    assert f"ulimit -n allows {limit}" in line
    assert "--num-workers 8" in line


def test_the_limit_is_raised_where_that_is_allowed() -> None:
    """In a process of its own, whose limit stays raised."""
    code = (
        "import resource; from w2v.data.worker_limits import plan_workers\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "print(plan_workers(8, 1, 0).num_workers, resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64)"
    )
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1024:
        pytest.skip("the hard limit on open files is low")
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["8", "True"]
