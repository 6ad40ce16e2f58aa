"""Epochs of batches: shuffled by (seed, epoch), dealt to ranks, read by worker processes, resumable at any update.

Batch number g of an epoch has the same clips and the same seed on any number of workers and ranks and after any
restart, because both follow from (seed, epoch, g) and are sent to the workers as a request. A position in an epoch
is one number, so resuming reads nothing that was read before.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import logging
import multiprocessing
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from w2v.data import worker_limits
from w2v.data.dataset import BatchDataset
from w2v.data.shard_order import ShardOrder
from w2v.data.worker_limits import SHARED_MEMORY, plan_workers
from w2v.distributed.child import end_with_parent
from w2v.errors import DataError, W2vError
from w2v.system import CHILD_ENDED, ENDING_SIGNALS
from w2v.types import Batch, IntArray

logger = logging.getLogger(__name__)

Request = tuple[IntArray, int]  # indices of the clips, seed of the batch
AHEAD = 16  # batches of a worker that are told to it before they are asked for


class EpochIterator:
    """The epochs of a training split, for one rank.

    Args:
        dataset: makes batches from (indices, seed).
        batches: indices of the clips of each batch; the same list on every rank.
        seed: `--seed`.
        num_workers: processes that read; 0 reads in this process.
        data_buffer_size: batches that the workers prepare ahead, in all (at least one each).
        curriculum: keep the order of `batches` for the first so many epochs.
        rank: rank of this process.
        world_size: number of ranks.
        name: split, for messages.
        pin_memory: put batches into page-locked memory, from which they are copied to a GPU without waiting.
        start_method: how workers start (`fork`, `spawn`, `forkserver`); None is the system's default.
        shard_order: draws the order of the batches; None: they are shuffled as a whole.

    Attributes:
        epoch: the epoch that is being read, or is about to be, from 1.
        position: batches of this epoch, over all ranks, that earlier updates have consumed.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batches: Sequence[IntArray],
        *,
        seed: int,
        num_workers: int = 0,
        data_buffer_size: int = 10,
        curriculum: int = 0,
        rank: int = 0,
        world_size: int = 1,
        name: str = "train",
        pin_memory: bool = False,
        start_method: str | None = None,
        shard_order: ShardOrder | None = None,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.shard_order = shard_order
        self.seed = seed
        self.curriculum = curriculum
        self.rank = rank
        self.world_size = world_size
        self.name = name
        self.epoch = 1
        self.position = 0
        self._digest: str | None = None
        self._reader = BatchReader(
            dataset, num_workers, data_buffer_size, pin_memory=pin_memory, start_method=start_method, batches=batches
        )

    def num_updates(self, update_freq: int) -> int:
        """Return the number of updates of a whole epoch."""
        return -(-len(self.batches) // (update_freq * self.world_size))

    def end_of_epoch(self) -> bool:
        """Whether every batch of this epoch has been consumed."""
        return self.position >= len(self.batches)

    def advance_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch += 1
        self.position = 0

    def order(self) -> IntArray:
        """Return the numbers of the batches in the order of this epoch."""
        order = np.arange(len(self.batches))
        if self.epoch > self.curriculum:
            # The legacy generator, seeded with seed + epoch: the order in which the original reads the batches.
            rng = np.random.RandomState((self.seed + self.epoch) % 2**32)
            if self.shard_order is not None:
                return self.shard_order.draw(rng)
            rng.shuffle(order)
        return order

    def updates(self, update_freq: int) -> Iterator[list[tuple[Any, bool]]]:
        """Yield the micro-batches of each update that is left in this epoch.

        Micro-batch j of rank r in an update takes batch `position + j * world_size + r`; so n ranks with
        accumulation 1 read what one rank with accumulation n reads. All ranks get lists of one length; the last
        one of an epoch may be short. A rank for which no batch is left gets a filler, with False: it is there to
        keep the ranks in step and must count for nothing.

        `position` moves on before an update is yielded: state saved while it is being worked on includes it.

        Args:
            update_freq: micro-batches per rank and update.

        Raises:
            DataError: a batch cannot be read; the same one-line error whichever process found it.
        """
        batches = self._reader.read(self._requests(self.order(), self.epoch, self.position))
        while not self.end_of_epoch():
            first = self.position
            left = -(-(len(self.batches) - first) // self.world_size)
            group = []
            for micro in range(min(update_freq, left)):
                number = first + micro * self.world_size + self.rank
                group.append((next(batches), number < len(self.batches)))
            self.position = min(first + update_freq * self.world_size, len(self.batches))
            yield group

    def state_dict(self) -> dict[str, Any]:
        """Return where to resume: at the end of an epoch that is the start of the next one."""
        finished = self.end_of_epoch()
        return {
            "epoch": self.epoch + 1 if finished else self.epoch,
            "position": 0 if finished else self.position,
            "num_batches": len(self.batches),
            "batches": self._fingerprint(),
            "dataset": self.dataset.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where a state was taken, on any number of workers and ranks.

        Where the batches are others than they were (another data set, `--max-tokens` or `--seed`), a position
        among them means nothing: the epoch then starts again, with a warning.
        """
        self.epoch = int(state["epoch"])
        self.position = int(state["position"])
        is_same = state["batches"] == self._fingerprint()
        if is_same and "dataset" in state:
            self.dataset.load_state_dict(state["dataset"])
        if self.position and not is_same:
            logger.warning(
                "%s: the data or the batches have changed since the checkpoint (%d batches, now %d); "
                "epoch %d starts from its first batch", self.name, state["num_batches"], len(self.batches), self.epoch,
            )  # fmt: skip
            self.position = 0

    def close(self) -> None:
        """End the worker processes."""
        self._reader.close()

    def _requests(self, order: IntArray, epoch: int, position: int) -> Iterator[Request]:
        """Yield this rank's requests from `position` on, one for every micro-batch of `updates`."""
        for start in range(position, len(order), self.world_size):
            number = start + self.rank
            # A filler is a real batch: the ranks' forward passes must look alike.
            yield self.batches[order[number % len(order)]], self.dataset.batch_seed(self.seed, epoch, number)

    def _fingerprint(self) -> str:
        """Return a short text that differs where the batches do."""
        if self._digest is None:
            digest = hashlib.blake2b(repr((self.seed, len(self.batches))).encode(), digest_size=8)
            for batch in self.batches:
                digest.update(np.asarray(batch, dtype=np.int64).tobytes())
                digest.update(b"/")
            if self.shard_order is not None:
                digest.update(repr(self.shard_order.at_once).encode())
            self._digest = digest.hexdigest()
        return self._digest


def iterate(
    dataset: BatchDataset,
    batches: Sequence[IntArray],
    seeds: Sequence[int],
    *,
    num_workers: int = 0,
    data_buffer_size: int = 10,
) -> Iterator[Any]:
    """Yield batches in the order given, once: validation and inference.

    Args:
        dataset: makes batches from (indices, seed).
        batches: indices of the clips of each batch.
        seeds: seed of each batch.
        num_workers: processes that read; 0 reads in this process.
        data_buffer_size: batches that the workers prepare ahead, in all.

    Raises:
        DataError: a batch cannot be read.
    """
    reader = BatchReader(dataset, num_workers, data_buffer_size, batches=batches)
    try:
        yield from reader.read(zip(batches, seeds, strict=True))
    finally:
        reader.close()


class BatchReader:
    """Answers requests for batches, in their order, with worker processes that live until `close`.

    Args:
        dataset: makes batches from (indices, seed).
        num_workers: processes that read; 0 reads in this process.
        data_buffer_size: batches that the workers prepare ahead, in all.
        pin_memory: put batches into page-locked memory.
        start_method: how workers start; None is the system's default.
        batches: those that may be asked for; their size is compared with the shared memory of the machine.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        num_workers: int = 0,
        data_buffer_size: int = 10,
        *,
        pin_memory: bool = False,
        start_method: str | None = None,
        batches: Sequence[IntArray] = (),
    ) -> None:
        self.dataset = dataset
        self._batches = batches
        self._is_told = False
        self._sampler = _Requests()
        self._options: dict[str, Any] = dict(
            batch_size=None,
            sampler=self._sampler,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            # Its own: the loader would otherwise draw from torch's global generator, which is dropout's.
            generator=torch.Generator(),
        )
        if num_workers:
            self._options.update(
                persistent_workers=True,
                prefetch_factor=max(1, data_buffer_size // num_workers),
                worker_init_fn=_start_worker,
                multiprocessing_context=start_method,
            )
        self._loader: DataLoader[Any] | None = None

    def read(self, requests: Iterable[Request]) -> Iterator[Any]:
        """Yield one batch per request; a new call ends the reading of an earlier one.

        Raises:
            W2vError: what the data set raised, wherever it ran.
            DataError: a worker process was killed. Where that can be known at once, it is raised at once, in whatever
                the main thread is doing between two batches.
        """
        self._sampler.requests, self._sampler.looks_ahead = requests, self.dataset.looks_ahead
        failure = None
        try:
            # No name for the loader's iterator: in the traceback of an error it would keep the workers alive.
            for answer in self._answers():
                if isinstance(answer, _Piped):
                    answer = self._unpacked(answer)
                if isinstance(answer, _Failure):
                    raise answer.error()
                self.dataset.record(answer.report)
                yield answer.batch
        except RuntimeError as e:
            failure = _dead_worker(e)
            if failure is None:
                raise
        if failure is not None:  # only here: torch's error holds the loader's iterator, and so the workers that live
            raise failure

    def close(self) -> None:
        """End the worker processes; a later `read` starts new ones."""
        self._loader = None

    def _unpacked(self, piped: _Piped) -> _Answer:
        """Return what a worker has sent through its pipe, and say so where it was not planned."""
        if not self._is_told:
            self._is_told = True
            logger.warning(
                "%s is full, so batches go through pipes, which is slower; make it larger (docker run --shm-size 8g), "
                "or give --num-workers 0", SHARED_MEMORY,
            )  # fmt: skip
        return _Answer(_converted(piped.batch, np.ndarray, torch.from_numpy), piped.report)

    def _answers(self) -> Iterator[Any]:
        with warnings.catch_warnings():
            # --num-workers is the user's word, whatever torch thinks of it on this machine.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            if self._loader is None:
                self._loader = self._make_loader()
            others = set(multiprocessing.active_children())
            try:
                answers = iter(self._loader)
            except OSError as e:
                self._loader = None
                raise DataError(
                    f"cannot start the processes that read batches: {e.strerror or e}; raise ulimit -n or ulimit -u, "
                    "or give --num-workers 0"
                ) from e
        if self._options["num_workers"]:
            _workers.update(set(multiprocessing.active_children()) - others)
            _stand_before_torch()
            atexit.unregister(_end_workers)  # once more, to come before what torch has registered meanwhile
            atexit.register(_end_workers)
        return answers

    def _make_loader(self) -> DataLoader[Any]:
        asked = self._options["num_workers"]
        prefetch = self._options.get("prefetch_factor", 0)
        plan = plan_workers(asked, prefetch, self.dataset.batch_bytes(self._batches) if asked else 0)
        if plan.num_workers < asked:
            self._options["num_workers"] = plan.num_workers
        if not plan.num_workers:
            for name in ("persistent_workers", "prefetch_factor", "worker_init_fn", "multiprocessing_context"):
                self._options.pop(name, None)
        self._is_told = plan.through_pipes
        self._sampler.num_workers = plan.num_workers if asked else 0
        return DataLoader(_Answers(self.dataset, through_pipes=plan.through_pipes), **self._options)


_workers: WeakSet[BaseProcess] = WeakSet()


def _end_workers() -> None:
    """End workers that live because a traceback holds the loader.

    multiprocessing would ask them to by SIGTERM, which they ignore, and then wait for ever.
    """
    if CHILD_ENDED is not None:
        signal.signal(CHILD_ENDED, signal.SIG_DFL)
    for worker in _workers:
        if worker.is_alive():
            worker.kill()


@dataclass(frozen=True)
class _ChildHandler:
    """Called when a child process ends. If that was a worker, torch's handler raises: say it plainly."""

    theirs: Any

    def __call__(self, number: int, frame: Any) -> None:
        try:
            self.theirs(number, frame)
        except RuntimeError as e:
            raise _dead_worker(e) or e from None


def _stand_before_torch() -> None:
    """Put our handler before torch's, which is there since the first workers were started."""
    if CHILD_ENDED is None:
        return
    theirs = signal.getsignal(CHILD_ENDED)
    is_theirs = callable(theirs) and not isinstance(theirs, _ChildHandler)
    if is_theirs and threading.current_thread() is threading.main_thread():
        signal.signal(CHILD_ENDED, _ChildHandler(theirs))


_DEAD_WORKER = re.compile(r"DataLoader worker \(pid\S* ([\d, ]+)\) (?:is killed by signal: ([^.]+)|exited)")


def _dead_worker(error: RuntimeError) -> DataError | None:
    """Return what torch says of a dead worker as a line for the user; None for any other error."""
    if isinstance(error.__cause__, DataError):  # while it waited for a batch, torch has put its own in front of ours
        return DataError(str(error.__cause__))
    found = _DEAD_WORKER.match(str(error))
    if found is None:
        return None
    names = {signal.strsignal(number): number.name for number in signal.Signals}
    how = f"was ended by {names.get(found[2], found[2])}" if found[2] else "has ended"
    return DataError(
        f"a process that reads batches (pid {found[1]}) {how}, perhaps because memory, or that of /dev/shm, ran out; "
        "lower --num-workers, or the size of a batch (--max-tokens, --batch-size)"
    )


class _Requests:
    """The loader's sampler: what is to be read next, exchangeable between epochs while the workers live on."""

    def __init__(self) -> None:
        self.requests: Iterable[Request] = ()
        self.looks_ahead = False
        self.num_workers = 0

    def __iter__(self) -> Iterator[tuple[IntArray, int, list[IntArray]]]:
        """Yield indices, seed, and the clips that the same worker will be asked for later and has not been told of."""
        if not self.looks_ahead:
            yield from ((*request, []) for request in self.requests)
            return
        # Requests go to the workers in turn.
        requests, turns = iter(self.requests), max(self.num_workers, 1)
        now, told = list(islice(requests, turns * AHEAD)), False
        while now:
            later = list(islice(requests, turns * AHEAD))
            for place, (indices, seed) in enumerate(now):
                news = [request[0] for request in later[place::turns]] if place < turns else []
                if place < turns and not told:
                    news = [request[0] for request in now[place::turns]] + news
                yield indices, seed, news
            now, told = later, True


@dataclass(frozen=True)
class _Piped:
    """An answer whose tensors are arrays: these go through the pipe itself, tensors through shared memory."""

    batch: Any
    report: Any


def _converted(batch: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """Return a batch, a dataclass, with its fields of one kind converted."""
    values = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **{name: convert(v) for name, v in values.items() if isinstance(v, kind)})


@dataclass(frozen=True)
class _Answer:
    batch: Any
    report: Any

    def piped(self) -> _Piped:
        return _Piped(_converted(self.batch, torch.Tensor, torch.Tensor.numpy), self.report)

    def pin_memory(self) -> _Answer:
        pin: Callable[[], Batch] | None = getattr(self.batch, "pin_memory", None)
        return self if pin is None else _Answer(pin(), self.report)


@dataclass(frozen=True)
class _Failure:
    """An error on its way to the main process. torch would wrap it, with a traceback, into its message."""

    kind: type[W2vError]
    message: str

    def error(self) -> W2vError:
        # Past __init__, whose arguments differ between kinds of errors.
        return self.kind.__new__(self.kind, self.message)


class _Answers(Dataset[Any]):
    """The data set as the loader's workers see it: one item per request."""

    def __init__(self, dataset: BatchDataset, *, through_pipes: bool = False) -> None:
        self.dataset = dataset
        self.through_pipes = through_pipes

    def __getitem__(self, request: tuple[IntArray, int, list[IntArray]]) -> _Answer | _Failure | _Piped:
        indices, seed, ahead = request
        is_worker = get_worker_info() is not None
        if is_worker:
            worker_limits.through_pipes |= self.through_pipes
        try:
            if ahead:
                self.dataset.expect(np.concatenate(ahead))
            answer: _Answer | _Failure = _Answer(*self.dataset.load(indices, seed))
        except W2vError as e:
            answer = _Failure(type(e), str(e))
        # A tensor on its way between processes takes a file of shared memory; an array goes through the pipe.
        return answer.piped() if is_worker and worker_limits.through_pipes and isinstance(answer, _Answer) else answer


def _as_it_is(answer: Any) -> Any:
    return answer


def _start_worker(worker: int) -> None:
    """One thread per worker: with more, they take the cores from each other and from the training process."""
    torch.set_num_threads(1)
    # Ctrl-C, and the signals that a scheduler sends to a whole process group, belong to the main process: it finishes
    # its update, saves, and ends the workers.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # torch's own watch looks every five seconds whether the parent is another than when it began, and so waits for
    # ever where the parent was killed before that.
    end_with_parent()
