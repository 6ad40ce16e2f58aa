"""A tensor that rows are added to; it doubles when it is full."""

from __future__ import annotations

import torch
from torch import Tensor


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
