"""Histories of words as nodes of a tree: equal histories are one node, known by a small number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from w2v.array_types import IntArray


class RowStore:
    """Rows of one shape.

    Attributes:
        size: rows held.
    """

    def __init__(self) -> None:
        self.size = 0
        self._rows = torch.empty(0)

    @property
    def rows(self) -> Tensor:
        """(size, ...) the rows; a window, which the next `append` may leave behind."""
        return self._rows[: self.size]

    def append(self, rows: Tensor) -> None:
        """Add (N, ...) rows; the first ones decide shape, type and device."""
        size = self.size + len(rows)
        if size > len(self._rows):
            grown = rows.new_empty(max(size, 2 * len(self._rows)), *rows.shape[1:])
            grown[: self.size] = self._rows[: self.size] if self.size else grown[:0]
            self._rows = grown
        self._rows[self.size : size] = rows
        self.size = size

    def truncate(self, size: int) -> None:
        """Forget all rows but the first `size`, and give their memory back."""
        self.size = min(size, self.size)
        self._rows = self._rows[: self.size].clone()


NONE = -1
"""The parent of the root."""


class PrefixTree:
    """Nodes, each one word longer than its parent.

    Args:
        num_words: V; words are below it.

    Attributes:
        size: number of nodes; nodes are numbered from 0 in the order in which they came.
    """

    def __init__(self, num_words: int) -> None:
        self.num_words = num_words
        self.size = 0
        self._nodes = np.empty((256, 2), dtype=np.int64)
        self._by_key: dict[int, int] = {}

    @property
    def parents(self) -> IntArray:
        """(size,) the node before, or `NONE`."""
        return self._nodes[: self.size, 0]

    @property
    def words(self) -> IntArray:
        """(size,) the last word of each."""
        return self._nodes[: self.size, 1]

    def children(self, parents: IntArray, words: IntArray) -> IntArray:
        """Return (N,) nodes of histories that are one word longer; new ones are made.

        Args:
            parents: (N,) nodes, or `NONE`.
            words: (N,) the words that follow.
        """
        keys, first, places = np.unique((parents + 1) * self.num_words + words, return_index=True, return_inverse=True)
        nodes = np.array([self._by_key.get(key, NONE) for key in keys.tolist()], dtype=np.int64)
        new = np.flatnonzero(nodes == NONE)
        if len(new):
            nodes[new] = self.size + np.arange(len(new))
            self._append(parents[first[new]], words[first[new]])
            self._by_key.update(zip(keys[new].tolist(), nodes[new].tolist(), strict=True))
        return nodes[places]

    def paths(self, nodes: IntArray) -> IntArray:
        """Return (N, T) the nodes above each, the root first; rows of short paths begin with `NONE`."""
        columns, above = [], self.parents[nodes]
        while (above != NONE).any():
            columns.append(above)
            above = np.where(above == NONE, NONE, self.parents[above])
        columns.reverse()
        return np.stack(columns, axis=1) if columns else np.empty((len(nodes), 0), dtype=np.int64)

    def truncate(self, size: int) -> None:
        """Forget all nodes but the first `size`."""
        self.size = size
        self._nodes = self._nodes[: max(size, 256)].copy()
        self._by_key = {key: node for key, node in self._by_key.items() if node < size}

    def _append(self, parents: IntArray, words: IntArray) -> None:
        size = self.size + len(parents)
        if size > len(self._nodes):
            self._nodes = np.concatenate([self._nodes, np.empty((max(size, len(self._nodes)), 2), dtype=np.int64)])
        self._nodes[self.size : size, 0] = parents
        self._nodes[self.size : size, 1] = words
        self.size = size
