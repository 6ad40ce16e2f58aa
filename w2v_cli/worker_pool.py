"""Processes that answer requests, to use all cores.

Workers are forked, so that what they need (a decoder with its language model) is built once and shared, and they are
forked before the first request, when the parent has no threads yet that a copy could trip over. A worker that dies
takes its request along as one line; the others go on.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

from w2v.errors import W2vError

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
            why = "killed, perhaps for want of memory" if code == -signal.SIGKILL else f"code {code}"
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
