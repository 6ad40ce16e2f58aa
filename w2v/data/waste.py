"""How much of an epoch's work is lost on padding, and how much of its audio on cropping, from the plan of its batches.

Closed forms over all batches; no audio is read. Which clips share a batch is `batch_sampler`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Waste:
    """Shares of an epoch, from 0 to 1, and its largest batch.

    Attributes:
        padding: of the samples that go through the model, those that are padding.
        cropped: of the samples of the clips, those that are cropped away.
        largest: number of a batch with the most samples, padding counted.
    """

    padding: float
    cropped: float
    largest: int


def epoch_waste(batches: Sequence[Ints], sizes: Ints, *, pad: bool, max_size: int | None = None) -> Waste:
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
    return Waste(1 - heard / max(int(tokens.sum()), 1), 1 - heard / max(int(whole.sum()), 1), int(tokens.argmax()))
