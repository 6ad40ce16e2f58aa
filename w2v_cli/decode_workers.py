"""Decoding on all cores, while the acoustic model computes the next batch."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from w2v.decoders import Decoder, DecoderConfig
from w2v.types import Emissions, Hypothesis
from w2v_cli.worker_pool import WorkerPool

Readings = list[list[Hypothesis]]

# They compute with torch, whose threads use all cores already.
THREADED_DECODERS = ("viterbi", "fairseqlm")


def default_workers(config: DecoderConfig) -> int:
    """Return how many processes a decoder is given: all cores of this rank, or none where torch uses them."""
    uses_torch = config.w2l_decoder in THREADED_DECODERS or config.rescore_lm is not None
    if uses_torch or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def decode(emissions: Iterator[Emissions], decoder: Decoder, num_workers: int) -> Iterator[tuple[Emissions, Readings]]:
    """Yield each batch with the readings of its clips, in order, while the next ones are computed.

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

    def decode_part(part: tuple[Any, Any]) -> Readings:
        log_probs, lengths = map(torch.from_numpy, part)
        return decoder.decode(log_probs, lengths)

    waiting: deque[tuple[Emissions, list[Future[Readings]]]] = deque()
    with WorkerPool(decode_part, num_workers) as pool:
        for batch in emissions:
            waiting.append((batch, [pool.submit(part) for part in _parts(batch, num_workers)]))
            # Enough for each worker to go on while the next batch is computed; no more, or memory would fill up.
            while sum(len(parts) for _, parts in waiting) - len(waiting[0][1]) >= 2 * num_workers:
                yield _joined(*waiting.popleft())
        while waiting:
            yield _joined(*waiting.popleft())


def _parts(batch: Emissions, number: int) -> Iterator[tuple[Any, Any]]:
    """Yield the frames and lengths of a batch in equal parts: searches take several clips at once."""
    for places in np.array_split(np.arange(len(batch.rows)), min(number, len(batch.rows))):
        lengths = batch.lengths.numpy()[places]
        yield batch.log_probs.numpy()[places, : lengths.max()], lengths


def _joined(batch: Emissions, parts: list[Future[Readings]]) -> tuple[Emissions, Readings]:
    return batch, [readings for part in parts for readings in part.result()]
