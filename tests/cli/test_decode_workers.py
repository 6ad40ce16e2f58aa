"""Decoding by several processes: the same as by one, at the same time as the model, and ended cleanly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.decoders import Decoder, DecoderConfig
from w2v.errors import DataError
from w2v.types import Emissions, Hypothesis
from w2v_cli.decode_workers import WorkerError, WorkerPool, decode, default_workers

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("processes cannot be forked here", allow_module_level=True)

REPOSITORY = Path(__file__).resolve().parents[2]


class SumDecoder(Decoder):
    """Reads the length of a clip and the sum of its frames."""

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        return [
            [Hypothesis([int(n), os.getpid()], [], float(clip[: int(n)].double().sum()))]
            for clip, n in zip(log_probs, lengths, strict=True)
        ]


def decoder() -> SumDecoder:
    return SumDecoder(DecoderConfig(), Dictionary.from_symbols(["|", "A"]))


def batches(sizes: list[int]) -> Iterator[Emissions]:
    generator = torch.Generator().manual_seed(0)
    row = 0
    for size in sizes:
        lengths = torch.randint(0, 9, (size,), generator=generator)
        yield Emissions(list(range(row, row + size)), [1] * size, torch.randn(size, 9, 6, generator=generator), lengths)
        row += size


@pytest.mark.parametrize("num_workers", [1, 3])
def test_as_one_process_and_in_order(num_workers: int) -> None:
    sizes = [5, 1, 8, 2, 1, 1, 1, 3]
    expected = list(decode(batches(sizes), decoder(), 0))
    found = list(decode(batches(sizes), decoder(), num_workers))
    assert [batch.rows for batch, _ in found] == [batch.rows for batch, _ in expected]
    pids = set()
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        assert [[(h.tokens[0], h.score) for h in clip] for clip in ours] == [
            [(h.tokens[0], h.score) for h in clip] for clip in theirs
        ]
        pids |= {clip[0].tokens[1] for clip in ours}
    assert os.getpid() not in pids
    assert len(pids) <= num_workers
    assert not multiprocessing.active_children()


def test_decoding_goes_on_while_the_next_batch_is_computed(tmp_path: Path) -> None:
    class Noting(SumDecoder):
        def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
            (tmp_path / "decoded").touch()
            return super().decode(log_probs, lengths)

    def computed() -> Iterator[Emissions]:
        first, second = batches([1, 1])
        yield first
        end = time.monotonic() + 20
        while not (tmp_path / "decoded").exists():
            assert time.monotonic() < end, "nothing is decoded while this is computed"
            time.sleep(0.01)
        yield second

    noting = Noting(DecoderConfig(), decoder().dictionary)
    assert len(list(decode(computed(), noting, 1))) == 2


class Trouble(SumDecoder):
    def __init__(self, kind: str) -> None:
        super().__init__(DecoderConfig(), decoder().dictionary)
        self.kind = kind

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "line":
            raise DataError("clip 7: a rule is broken")
        raise RuntimeError("a fault")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("killed", r"a decoding process has ended \(killed, perhaps because the machine is out of memory\)"),
        ("line", "clip 7: a rule is broken"),
        ("fault", r"a decoding process has ended \(code 1\)"),
    ],
)
def test_a_worker_that_fails_is_one_line(kind: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WorkerError, match=message):
        list(decode(batches([4] * 10), Trouble(kind), 2))
    assert not multiprocessing.active_children()
    assert ("RuntimeError: a fault" in capfd.readouterr().err) == (kind == "fault")


def test_one_dead_worker_does_not_stop_the_others() -> None:
    def answer(request: int) -> int:
        if request == 3:
            os._exit(9)
        return request * request

    with WorkerPool(answer, 2) as pool:
        futures = [pool.submit(request) for request in range(20)]
        with pytest.raises(WorkerError, match="code 9"):
            futures[3].result()
        assert [f.result() for i, f in enumerate(futures) if i != 3] == [i * i for i in range(20) if i != 3]


def test_without_workers_left_every_request_is_answered() -> None:
    with WorkerPool(lambda request: os._exit(request), 2) as pool:
        for future in [pool.submit(1) for _ in range(6)]:
            with pytest.raises(WorkerError, match="has ended"):
                future.result(timeout=20)


def test_an_interruption_ends_the_workers() -> None:
    class Slow(SumDecoder):
        def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
            time.sleep(60)
            return super().decode(log_probs, lengths)

    def interrupted() -> Iterator[Emissions]:
        yield from batches([1])
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(decode(interrupted(), Slow(DecoderConfig(), decoder().dictionary), 2))
    assert not multiprocessing.active_children()
    assert time.monotonic() - begin < 20


SLEEPER = """
import time
from w2v_cli.decode_workers import WorkerPool
pool = WorkerPool(lambda request: time.sleep(request), 3)
print(*(process.pid for process in pool._processes), flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_leave_when_their_parent_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    end = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < end, "a worker has outlived its parent"
        time.sleep(0.05)
    assert len(workers) == 3


def test_beam_search_gets_all_cores_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    kenlm = DecoderConfig(w2l_decoder="kenlm")
    assert default_workers(kenlm) == cores
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 * cores))
    assert default_workers(kenlm) == 1
    for config in (DecoderConfig(), DecoderConfig(w2l_decoder="fairseqlm")):
        assert default_workers(config) == 0
    assert default_workers(DecoderConfig(w2l_decoder="kenlm", rescore_lm="lm.pt", nbest=2)) == 0
