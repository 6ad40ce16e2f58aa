"""What happens when a GPU's memory does not suffice for a micro-batch: once more, in smaller parts.

The work in parts is `w2v.modules.chunking`; here is decided how many.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator

import torch

from w2v.errors import TrainingError
from w2v.modules.chunking import chunks
from w2v.types import Batch

logger = logging.getLogger(__name__)


class OutOfMemoryGuard:
    """Remembers which batches were too large, and lets batches as large go through in parts from then on.

    Attributes:
        is_shared: other ranks have begun to exchange gradients of this attempt, so it cannot be repeated.
        is_sharded: weights are exchanged as well, so that no attempt can be repeated by one rank alone.
    """

    def __init__(self) -> None:
        self.is_shared = self.is_sharded = False
        self._too_large: dict[int, int] = {}  # number of parts -> smallest batch that did not fit, in tokens
        self._batch: Batch | None = None

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Let an attempt fail when the device is out of memory; a caller that has not returned from within tries again.

        Raises:
            TrainingError: there is nothing left to be divided, or other ranks are waiting.
        """
        if self._batch is not None and torch.cuda.is_available():
            # Not where the error is caught: until it is forgotten, its frames hold what the failed attempt had made.
            torch.cuda.empty_cache()
        self.is_shared, self._batch = False, None
        try:
            yield
        except torch.cuda.OutOfMemoryError as e:  # a CPU is not asked: the kernel kills instead
            self._divide(str(e).partition("\n")[0])

    @contextlib.contextmanager
    def parts_of(self, batch: Batch) -> Iterator[None]:
        """Work on `batch` in as many parts as experience tells."""
        self._batch = batch
        with chunks(self._parts(batch)):
            yield
        self._batch = None

    def _parts(self, batch: Batch) -> int:
        parts = 1
        # Doubled as often as experience says: what failed in 2 parts is tried in 4.
        while batch.num_tokens >= self._too_large.get(parts, math.inf):
            parts *= 2
        return parts

    def _divide(self, error: str) -> None:
        batch = self._batch
        if batch is None:
            raise TrainingError(
                "out of GPU memory outside of any batch, as for the optimizer's state; lower --max-tokens and raise "
                f"--update-freq as much, or divide the model over more GPUs with --ddp-backend fully_sharded ({error})"
            )
        size = f"a batch of {batch.num_items} clips, {batch.num_tokens} samples counting padding"
        if self.is_shared or self.is_sharded:
            what = "weights" if self.is_sharded else "gradients"
            raise TrainingError(
                f"out of GPU memory in the midst of {size}, when other ranks had begun to exchange {what}; lower "
                f"--max-tokens and raise --update-freq as much ({error})"
            )
        parts = self._parts(batch)
        if parts >= batch.num_items:
            raise TrainingError(f"out of GPU memory for {size}, even clip by clip; lower --max-tokens ({error})")
        self._too_large[parts] = batch.num_tokens
        logger.warning(
            "out of GPU memory for %s, in %d part%s: trying again in %d, as for all batches of this size from now on; "
            "a lower --max-tokens with a higher --update-freq would be faster", size, parts, "s" * (parts > 1),
            2 * parts,
        )  # fmt: skip
