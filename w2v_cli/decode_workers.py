"""Processes that decode: a pool of workers that answer requests, and batches of emissions divided among them."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from w2v.decoders import Decoder, DecoderConfig
from w2v.errors import W2vError
from w2v.system import KILLED, can_fork, forked_workers
from w2v.types import Emissions, Hypothesis

Request = TypeVar("Request")
Answer = TypeVar("Answer")
GRACE = 2.0  # seconds that a worker has to leave


class WorkerError(W2vError):
    """A worker died, or could not answer."""


class WorkerPool(Generic[Request, Answer]):
    """Workers that each answer one request at a time; a context that ends them.

    Args:
        answer: called in the workers; its result and its argument are pickled.
        num_workers: processes.
    """

    def __init__(self, answer: Callable[[Request], Answer], num_workers: int) -> None:
        if not can_fork():
            raise WorkerError(
                "this system cannot copy a process, so there can be no further ones; set their number to 0"
            )
        context: Any = multiprocessing.get_context("fork")
        self._idle: queue.SimpleQueue[tuple[Any, Connection[Any, Any]]] = queue.SimpleQueue()
        self._processes: list[Any] = []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(answer, theirs, ours), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._idle.put((process, ours))
        # One thread waits for each worker, so that workers are fed while this process computes emissions.
        self._threads = ThreadPoolExecutor(num_workers)

    def submit(self, request: Request) -> Future[Answer]:
        """Return the answer to come; it raises `WorkerError` if the worker dies or gives a line instead."""
        return self._threads.submit(self._ask, request)

    def _ask(self, request: Request) -> Answer:
        process, connection = self._idle.get()
        try:
            connection.send(request)
            ok, answer = connection.recv()
        except (EOFError, OSError) as e:
            process.join(GRACE)
            code = process.exitcode
            why = "killed, perhaps because the machine is out of memory" if code == KILLED else f"code {code}"
            if not any(other.is_alive() for other in self._processes):
                self._idle.put((process, connection))  # those who ask next must not wait for ever
            raise WorkerError(f"a decoding process has ended ({why})") from e
        self._idle.put((process, connection))
        if not ok:
            raise WorkerError(answer)
        result: Answer = answer
        return result

    def __enter__(self) -> WorkerPool[Request, Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()  # all answers are here, or nobody waits for them any more
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.join(GRACE)


def _serve(answer: Callable[[Any], Any], connection: Connection[Any, Any], parents_end: Connection[Any, Any]) -> None:
    # A copy of the parent's end would hide from this process that the parent is gone.
    parents_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            result = (True, answer(request))
        except W2vError as e:
            result = (False, str(e))
        connection.send(result)


Hypotheses = list[list[Hypothesis]]
# They compute with torch, whose threads use all cores already.
THREADED_DECODERS = ("viterbi", "fairseqlm")


def default_workers(config: DecoderConfig) -> int:
    """Return how many processes a decoder is given: all cores of this rank, or none where torch uses them."""
    uses_torch = config.w2l_decoder in THREADED_DECODERS or config.rescore_lm is not None
    return 0 if uses_torch else forked_workers()


def decode(
    emissions: Iterator[Emissions], decoder: Decoder, num_workers: int
) -> Iterator[tuple[Emissions, Hypotheses]]:
    """Yield each batch with the hypotheses of its clips, in order, while the next ones are computed.

    Args:
        emissions: what is decoded.
        decoder: what decodes.
        num_workers: processes that decode, each a part of a batch; 0: this one.

    Raises:
        WorkerError: a worker died.
    """
    if not num_workers:
        for batch in emissions:
            yield batch, decoder.decode(batch.log_probs, batch.lengths)
        return

    def decode_part(part: tuple[Any, Any]) -> Hypotheses:
        log_probs, lengths = map(torch.from_numpy, part)
        return decoder.decode(log_probs, lengths)

    waiting: deque[tuple[Emissions, list[Future[Hypotheses]]]] = deque()
    with WorkerPool(decode_part, num_workers) as pool:
        for batch in emissions:
            waiting.append((batch, [pool.submit(part) for part in _parts(batch, num_workers)]))
            # Enough for each worker to continue while the next batch is computed; no more, or memory would fill up.
            while sum(len(parts) for _, parts in waiting) - len(waiting[0][1]) >= 2 * num_workers:
                yield _joined(*waiting.popleft())
        while waiting:
            yield _joined(*waiting.popleft())


def _parts(batch: Emissions, number: int) -> Iterator[tuple[Any, Any]]:
    """Yield the frames and lengths of a batch in equal parts: searches take several clips at once."""
    for places in np.array_split(np.arange(len(batch.rows)), min(number, len(batch.rows))):
        lengths = batch.lengths.numpy()[places]
        yield batch.log_probs.numpy()[places, : lengths.max()], lengths


def _joined(batch: Emissions, parts: list[Future[Hypotheses]]) -> tuple[Emissions, Hypotheses]:
    return batch, [hypotheses for part in parts for hypotheses in part.result()]
