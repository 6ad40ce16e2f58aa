"""Which clips share a batch: longest first, as many as `--max-tokens` padded samples allow.

The order and the cuts are those of the original at its README's commit (fairseq `data_utils.batch_by_size` and
`RawAudioDataset.ordered_indices`), so a batch here holds what a batch there held. Drawing epochs is `iterator`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from w2v.array_types import IntArray
from w2v.errors import DataError


@dataclass(frozen=True)
class BatchPlan:
    """Batches of one split.

    Attributes:
        batches: indices of the clips of each batch.
        skipped: indices of clips longer than the budget of a whole batch.
    """

    batches: list[IntArray]
    skipped: IntArray

    @property
    def num_skipped(self) -> int:
        return len(self.skipped)

    def __len__(self) -> int:
        return len(self.batches)


def length_order(sizes: IntArray, seed: int | None) -> IntArray:
    """Return the indices of clips, longest first.

    Args:
        sizes: (N,) full lengths in samples. The original orders by these even where clips are cropped.
        seed: orders clips of equal length at random; None keeps them as they are, the last one first.
    """
    # The legacy generator: its permutation is what the original drew.
    ties = np.arange(len(sizes)) if seed is None else np.random.RandomState(seed).permutation(len(sizes))
    order: IntArray = np.lexsort((ties, sizes))[::-1].astype(np.int64)
    return order


def batch_by_size(
    order: IntArray,
    lengths: IntArray,
    *,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    multiple: int = 8,
) -> BatchPlan:
    """Cut an order of clips into batches; every clip that fits comes into exactly one.

    A batch is full when one clip more would make `clips x longest > max_tokens`, or when it holds `batch_size`
    clips. A full batch of at least `multiple` clips is cut to a multiple of it, and the rest begins the next one.
    Differs from the original: a clip longer than `max_tokens` is left out and reported instead of ending the
    program, and the budget holds for any order (there, only for one by falling length).

    Args:
        order: (N,) indices, usually from `length_order`.
        lengths: cost of each clip in samples, by index.
        max_tokens: `--max-tokens`.
        batch_size: `--batch-size`.
        multiple: `--required-batch-size-multiple`.
    """
    costs = lengths[order]
    fits = costs <= max_tokens if max_tokens is not None else np.ones(len(order), dtype=bool)
    skipped, order, costs = order[~fits], order[fits], costs[fits]
    batches = []
    start = 0
    while start < len(order):
        size = _clips_that_fit(costs, start, max_tokens, batch_size)
        # The last batch is never full, so it goes out whole.
        if start + size < len(order) and size >= multiple:
            size -= size % multiple
        batches.append(order[start : start + size])
        start += size
    return BatchPlan(batches, skipped)


def shortest_first(sizes: IntArray, seed: int) -> IntArray:
    """Return the indices of items, shortest first, those of equal size in an order drawn from `seed`."""
    ties = np.random.RandomState(seed % 2**32).permutation(len(sizes))
    order: IntArray = np.lexsort((ties, sizes)).astype(np.int64)
    return order


def plan_batches(sizes: IntArray, lengths: IntArray, *, seed: int | None, **limits: Any) -> BatchPlan:
    """Order clips by length, longest first, and cut them into batches.

    Args:
        sizes: (N,) full lengths, which give the order.
        lengths: (N,) costs, which give the batches (`AudioDataset.lengths`).
        seed: `--seed`, or None for an order without chance (validation, inference).
        limits: as for `plan_order`.

    Raises:
        DataError: as `plan_order` does.
    """
    return plan_order(length_order(sizes, seed), lengths, **limits)


def plan_order(
    order: IntArray,
    lengths: IntArray,
    *,
    max_tokens: int | None,
    batch_size: int | None,
    multiple: int = 8,
    name_of: Callable[[int], str] = str,
    refuse_long: bool = False,
    unit: str = "samples",
) -> BatchPlan:
    """Cut an order of clips into batches.

    Args:
        order: (N,) indices.
        lengths: costs of all clips, by index.
        max_tokens: `--max-tokens`.
        batch_size: `--batch-size`.
        multiple: `--required-batch-size-multiple`.
        name_of: name of a clip, for messages.
        refuse_long: raise for a clip longer than `max_tokens` instead of leaving it out.
        unit: what lengths count, for messages.

    Raises:
        DataError: no clip fits into a batch, or `refuse_long` and one does not.
    """
    plan = batch_by_size(order, lengths, max_tokens=max_tokens, batch_size=batch_size, multiple=multiple)
    if plan.num_skipped and (refuse_long or not plan.batches):
        first = int(plan.skipped[0])
        raise DataError(
            f"{name_of(first)}: {lengths[first]} {unit} do not fit into --max-tokens {max_tokens}"
            + (f" (nor do {plan.num_skipped - 1} others)" if plan.num_skipped > 1 else "")
        )
    if not plan.batches:
        raise DataError("there are no clips to make batches of")
    return plan


def _clips_that_fit(costs: IntArray, start: int, max_tokens: int | None, batch_size: int | None) -> int:
    window = len(costs) - start if batch_size is None else min(batch_size, len(costs) - start)
    if max_tokens is None:
        return window
    # The first clip bounds how many can follow, so a window is looked at, never all that is left.
    first = int(costs[start])
    window = min(window, max_tokens // first) if first else window
    longest = np.maximum.accumulate(costs[start : start + window])
    padded = np.arange(1, len(longest) + 1) * longest
    return int(np.searchsorted(padded, max_tokens, side="right"))


@dataclass(frozen=True)
class PaddingStats:
    """Shares of an epoch, from 0 to 1, and its largest batch.

    Attributes:
        padding: of the samples that go through the model, those that are padding.
        cropped: of the samples of the clips, those that are cropped away.
        largest: number of a batch with the most samples, padding counted.
    """

    padding: float
    cropped: float
    largest: int


def padding_stats(
    batches: Sequence[IntArray], sizes: IntArray, *, pad: bool, max_size: int | None = None
) -> PaddingStats:
    """Work out the waste of one epoch.

    Args:
        batches: indices of the clips of each batch, none of them empty.
        sizes: (N,) samples per clip, by index.
        pad: clips are padded to the longest of the batch; otherwise cropped to the shortest.
        max_size: no row is wider than this many samples.
    """
    starts = np.cumsum([0, *map(len, batches[:-1])])
    counts = np.diff(starts, append=sum(map(len, batches)))
    whole = sizes[np.concatenate(batches)]
    widths = (np.maximum if pad else np.minimum).reduceat(whole, starts)
    if max_size is not None:
        widths = np.minimum(widths, max_size)
    heard = int(np.minimum(whole, np.repeat(widths, counts)).sum())
    tokens = widths * counts
    return PaddingStats(
        1 - heard / max(int(tokens.sum()), 1), 1 - heard / max(int(whole.sum()), 1), int(tokens.argmax())
    )
