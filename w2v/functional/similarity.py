"""How alike frames are: cosines, and the nearest neighbours of each frame among those of other clips."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
ROWS_AT_ONCE = 1024  # rows of cosines held at a time: 1024 x 20,000 frames are 80 MB


def unit_rows(frames: Floats) -> Floats:
    """Return (N, C) frames scaled to length 1; a frame of zeros stays one, and is like no other."""
    lengths = np.sqrt(np.einsum("nc,nc->n", frames, frames, dtype=np.float64))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    result: Floats = (frames * scale[:, None]).astype(np.float32)
    return result


def cosines(first: Floats, second: Floats) -> Floats:
    """Return the (N, M) cosines of (N, C) and (M, C) frames, in [-1, 1]."""
    result: Floats = np.clip(unit_rows(first) @ unit_rows(second).T, -1, 1)
    return result


def nearest_neighbours(frames: Floats, clips: Ints, count: int, queries: Ints | None = None) -> tuple[Ints, Floats]:
    """Find the frames of other clips that point most nearly in the same direction.

    Frames of the same clip are left out: a frame's best neighbour would be the next one in time.

    Args:
        frames: (N, C).
        clips: (N,) clip of each frame.
        count: neighbours per frame, K.
        queries: (Q,) places of the frames to ask for; None: all of them.

    Returns:
        (Q, K) places, best first, equal cosines in the order of their places, and (Q, K) cosines. Where other clips
        have fewer than K frames, the places are -1 and the cosines nan.
    """
    queries = np.arange(len(frames)) if queries is None else queries
    units = unit_rows(frames)
    places = np.full((len(queries), count), -1, dtype=np.int64)
    values = np.full((len(queries), count), np.nan, dtype=np.float32)
    shown = min(count, len(frames))
    for first in range(0, len(queries), ROWS_AT_ONCE):
        rows = queries[first : first + ROWS_AT_ONCE]
        found = np.clip(units[rows] @ units.T, -1, 1)  # (rows, N)
        found[clips[rows][:, None] == clips[None]] = -np.inf
        # A stable sort of all costs more than a partition, and keeps equal cosines in one order on every machine.
        order = np.argsort(-found, axis=1, kind="stable")[:, :shown]
        best = np.take_along_axis(found, order, axis=1)
        known = np.isfinite(best)
        places[first : first + len(rows), :shown] = np.where(known, order, -1)
        values[first : first + len(rows), :shown] = np.where(known, best, np.nan)
    return places, values


def same_label_share(neighbours: Ints, labels: Ints, clips: Ints) -> tuple[float, float]:
    """Return how often the nearest neighbour has a frame's own label, and how often a random frame would.

    Args:
        neighbours: (N,) place of each frame's nearest neighbour; -1: it has none.
        labels: (N,) number of each frame's label; -1: unknown. Pairs with an unknown label do not count.
        clips: (N,) clip of each frame; a random frame, too, is one of another clip.

    Returns:
        share and chance, in [0, 1]; nan where no pair counts.
    """
    asked = (labels >= 0) & (neighbours >= 0)
    asked[asked] &= labels[neighbours[asked]] >= 0
    if not asked.any():
        return float("nan"), float("nan")
    share = float((labels[asked] == labels[neighbours[asked]]).mean())
    known = labels >= 0
    num_labels, num_clips = int(labels.max()) + 1, int(clips.max()) + 1
    counts = np.zeros((num_clips, num_labels), dtype=np.int64)
    np.add.at(counts, (clips[known], labels[known]), 1)
    # Frames of other clips: all, less those of the own clip.
    others = counts.sum(axis=0)[None] - counts
    same = others[clips[asked], labels[asked]]
    total = others.sum(axis=1)[clips[asked]]
    return share, float((same / np.maximum(total, 1)).mean())
