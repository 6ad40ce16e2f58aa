"""Epochs: the same batches on any number of workers and ranks and after any restart."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2v.data import iterator as iterator_module
from w2v.data.batch_sampler import batch_by_size, length_order
from w2v.data.dataset import AudioDataset, BatchDataset
from w2v.data.iterator import EpochIterator, iterate
from w2v.data.manifest import make_manifest
from w2v.errors import ConfigError, DataError, MissingPackageError
from w2v.rng import seed_from


class Echo(BatchDataset):
    """A data set whose batches are the requests themselves."""

    def batch(self, indices, seed):
        return [int(index) for index in indices], seed


class Broken(BatchDataset):
    """A data set that fails at clip 3."""

    def __init__(self, error):
        self.error = error

    def batch(self, indices, seed):
        if 3 in indices:
            raise self.error
        return [int(index) for index in indices], seed


class Threads(BatchDataset):
    def batch(self, indices, seed):
        return torch.get_num_threads(), os.getpid()


class Slow(BatchDataset):
    def batch(self, indices, seed):
        time.sleep(0.3 * (indices[0] > 0))
        return os.getpid()


def plan(count, size=1):
    return [np.arange(i, min(i + size, count)) for i in range(0, count, size)]


def make(count=11, **options):
    return EpochIterator(Echo(), plan(count), **({"seed": 7} | options))


def epoch(iterator, update_freq=1):
    return list(iterator.updates(update_freq))


def real(updates):
    return [batch for group in updates for batch, counts in group if counts]


@pytest.fixture
def speech(tmp_path):
    sizes = np.random.default_rng(0).integers(500, 3000, 23)
    for i, size in enumerate(sizes):
        soundfile.write(str(tmp_path / f"{i}.flac"), np.random.default_rng(i).uniform(-0.5, 0.5, size), 16000)
    dataset = AudioDataset(make_manifest(str(tmp_path), [f"{i}.flac" for i in range(23)], sizes), max_sample_size=2000)
    batches = batch_by_size(length_order(dataset.sizes, 1), dataset.lengths, max_tokens=8000, multiple=2).batches
    return dataset, batches


@pytest.mark.parametrize(("workers", "method"), [(1, None), (3, None), (2, "spawn")])
def test_any_number_of_workers_gives_the_same_batches(speech, workers, method):
    dataset, batches = speech
    alone = EpochIterator(dataset, batches, seed=1)
    many = EpochIterator(dataset, batches, seed=1, num_workers=workers, data_buffer_size=4, start_method=method)
    for _ in range(2):
        expected, found = real(epoch(alone)), real(epoch(many, 2))
        assert len(expected) == len(found) == len(batches)
        for one, other in zip(expected, found):
            assert torch.equal(one.source, other.source)
            assert (one.seed, one.indices.tolist()) == (other.seed, other.indices.tolist())
        alone.advance_epoch()
        many.advance_epoch()
    many.close()


def test_every_batch_once_with_its_own_seed():
    iterator = make()
    batches = real(epoch(iterator))
    assert sorted(indices[0] for indices, _ in batches) == list(range(11))
    assert [seed for _, seed in batches] == [seed_from(7, 1, g) for g in range(11)]
    assert iterator.end_of_epoch()
    iterator.advance_epoch()
    following = real(epoch(iterator))
    assert [b for b, _ in following] != [b for b, _ in batches]
    assert not {s for _, s in following} & {s for _, s in batches}


def test_curriculum_keeps_the_order():
    iterator = make(curriculum=2)
    for expected in (True, True, False):
        assert ([b[0] for b, _ in real(epoch(iterator))] == list(range(11))) is expected
        iterator.advance_epoch()


@pytest.mark.parametrize("count", [1, 4, 11, 12])
@pytest.mark.parametrize("update_freq", [1, 2, 5])
def test_two_ranks_equal_one_with_twice_the_accumulation(count, update_freq):
    alone = epoch(make(count), 2 * update_freq)
    ranks = [epoch(make(count, rank=rank, world_size=2), update_freq) for rank in range(2)]
    assert len(alone) == len(ranks[0]) == len(ranks[1]) == make(count, world_size=2).num_updates(update_freq)
    assert make(count).num_updates(2 * update_freq) == len(alone)
    for together, first, second in zip(alone, *ranks):
        assert len(first) == len(second)
        merged = [item for pair in zip(first, second) for item in pair]
        assert real([merged]) == real([together])
        assert all(counts for _, counts in first)


@pytest.mark.parametrize("workers", [0, 2])
def test_restart_in_the_middle_of_an_epoch(workers):
    whole = make()
    expected = [epoch(whole, 2)]
    whole.advance_epoch()
    expected.append(epoch(whole, 2))
    for stop in range(len(expected[1])):
        first = make(num_workers=workers)
        first.advance_epoch()
        updates = first.updates(2)
        found = [next(updates) for _ in range(stop)]
        state = first.state_dict()
        assert state["position"] == 2 * stop
        again = make(num_workers=2 - workers)
        again.load_state_dict(state)
        found += epoch(again, 2)
        assert found == expected[1]
        for iterator in (first, again):
            iterator.close()


@pytest.mark.parametrize(("before", "after"), [((1, 2), (2, 1)), ((2, 1), (1, 3)), ((3, 1), (2, 2)), ((2, 2), (3, 1))])
def test_restart_with_another_number_of_ranks(before, after):
    """What is left of the epoch is read once, whoever reads it."""
    expected = real(epoch(make(23)))
    starts = [make(23, rank=rank, world_size=before[0]) for rank in range(before[0])]
    readers = [iterator.updates(before[1]) for iterator in starts]
    found = [item for _ in range(2) for group in zip(*(next(reader) for reader in readers)) for item in real([group])]
    states = [iterator.state_dict() for iterator in starts]
    assert all(state == states[0] for state in states)
    rests = []
    for rank in range(after[0]):
        iterator = make(23, rank=rank, world_size=after[0])
        iterator.load_state_dict(states[0])
        rests.append(epoch(iterator, after[1]))
    assert len({len(rest) for rest in rests}) == 1
    for groups in zip(*rests):
        found += [item for group in zip(*groups) for item in real([group])]
    assert found == expected


def test_state_at_the_end_of_an_epoch_is_the_next_one():
    iterator = make()
    epoch(iterator)
    again = make()
    again.load_state_dict(iterator.state_dict())
    assert (again.epoch, again.position) == (2, 0)
    iterator.advance_epoch()
    assert epoch(again) == epoch(iterator)


def test_changed_batches_start_the_epoch_again(caplog):
    iterator = make()
    next(iterator.updates(3))
    changed = make(12)
    changed.load_state_dict(iterator.state_dict())
    assert (changed.epoch, changed.position) == (1, 0)
    assert "the data or the batches have changed since the checkpoint (11 batches, now 12)" in caplog.text
    same = make()
    same.load_state_dict(iterator.state_dict())
    assert same.position == 3


def test_iterate_keeps_order_and_seeds():
    expected = [([i, i + 1] if i < 4 else [4], 10 * i) for i in (0, 2, 4)]
    for workers in (0, 2):
        assert list(iterate(Echo(), plan(5, 2), [0, 20, 40], num_workers=workers)) == expected


ERRORS = [DataError("x.wav: bad"), ConfigError("--flag"), MissingPackageError("soxr", "audio", "resampling")]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_arrive_as_they_were_raised(workers, error):
    batches = iterate(Broken(error), plan(6), range(6), num_workers=workers)
    assert [next(batches)[0] for _ in range(3)] == [[0], [1], [2]]
    with pytest.raises(type(error)) as raised:
        next(batches)
    assert str(raised.value) == str(error)


def test_unreadable_files_are_counted_in_the_main_process(speech, caplog):
    dataset, batches = speech
    os.truncate(dataset.path(5), 10)
    list(iterate(dataset, batches, range(len(batches)), num_workers=2))
    list(iterate(dataset, batches, range(len(batches)), num_workers=2))
    assert list(dataset.bad) == [5]
    assert dataset.num_read == len(dataset)
    assert len(caplog.records) == 1
    for index in range(10):
        os.truncate(dataset.path(index), 0)
    with pytest.raises(DataError, match="clips read are unreadable, more than 1%"):
        list(iterate(dataset, batches, range(len(batches)), num_workers=2))


def test_a_restart_remembers_unreadable_files(speech, caplog):
    dataset, batches = speech
    os.truncate(dataset.path(5), 10)
    first = EpochIterator(dataset, batches, seed=1)
    epoch(first)
    assert len(caplog.records) == 1
    fresh = AudioDataset(dataset.manifest, max_sample_size=2000)
    again = EpochIterator(fresh, batches, seed=1)
    again.load_state_dict(first.state_dict())
    assert (fresh.num_read, list(fresh.bad)) == (dataset.num_read, [5])
    epoch(again)
    assert len(caplog.records) == 1
    other = AudioDataset(dataset.manifest, max_sample_size=2000)
    EpochIterator(other, batches[:-1], seed=1).load_state_dict(first.state_dict())
    assert (other.num_read, other.bad) == (0, {})


def test_workers_have_one_thread_live_on_and_end():
    iterator = EpochIterator(Threads(), plan(8), seed=1, num_workers=2)
    first = {pid for group in iterator.updates(1) for (threads, pid), _ in group if threads == 1}
    iterator.advance_epoch()
    assert {pid for group in iterator.updates(1) for (_, pid), _ in group} == first
    assert len(first) == 2
    assert os.getpid() not in first
    iterator.close()
    gc.collect()
    assert not first & {process.pid for process in multiprocessing.active_children()}


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_workers_of_a_killed_process_end_at_once(tmp_path, monkeypatch, delay):
    """Even those that it had but begun to start: torch's own watch would let them wait for ever."""
    start = iterator_module._start_worker

    def slow_start(worker):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(delay)
        start(worker)

    monkeypatch.setattr(iterator_module, "_start_worker", slow_start)
    child = os.fork()
    if child == 0:
        try:
            next(iterate(Threads(), plan(8), range(8), num_workers=2))
            time.sleep(60)
        finally:
            os._exit(1)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    try:
        wait_for(lambda: not any(map(is_alive, workers)))
    finally:
        for worker in filter(is_alive, workers):
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("busy", [False, True], ids=["reading", "training"])
def test_a_killed_worker_ends_the_run_with_one_line(busy):
    """Whether the main thread waits for a batch or does something else, and among other readers' workers."""
    others = iterate(Threads(), plan(8), range(8), num_workers=1)
    next(others)
    batches = iterate(Slow(), plan(8), range(8), num_workers=2, data_buffer_size=2)
    worker = next(batches)
    message = (
        rf"^a process that reads batches \(pid {worker}\) was ended by SIGKILL, .*; lower --num-workers, .*--max-tok"
    )

    def go_on():
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: False) if busy else list(batches)

    with pytest.raises(DataError, match=message):
        go_on()
    batches.close()
    assert len(list(others)) == 7
    assert not multiprocessing.active_children()


FAULT = """
import sys
import numpy as np
from w2v.data.dataset import BatchDataset
from w2v.data.iterator import iterate

class Faulty(BatchDataset):
    def batch(self, indices, seed):
        return 1 // (3 - indices[0] if sys.argv[1] == "worker" else 1)

kept = iterate(Faulty(), [np.array([i]) for i in range(8)], range(8), num_workers=2)
for number, _ in enumerate(kept):
    1 // (3 - number)
"""


@pytest.mark.parametrize("where", ["worker", "main"])
def test_a_fault_of_ours_ends_the_program(where):
    """Although its traceback, which the interpreter keeps, holds the loader."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", FAULT, where], env=environ, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert "ignored" not in ended.stderr


def wait_for(condition, seconds=3.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid):
    """Whether a process runs; one that has ended and waits for an adoptive parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_reading_leaves_torchs_global_generator_alone(speech):
    before = torch.get_rng_state()
    dataset, batches = speech
    list(iterate(dataset, batches, range(len(batches)), num_workers=1))
    list(iterate(dataset, batches, range(len(batches))))
    assert torch.equal(before, torch.get_rng_state())
