"""How far one sequence is from another, and of which kind the errors are.

`edit_counts` fills one vectorised row of the Levenshtein table per reference item, then walks back once. The package
`editdistance` gives the same distance faster, but not the split into substitutions, insertions and deletions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EditCounts:
    """Edits that turn a reference into a hypothesis, and the length of the reference."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    reference_length: int = 0

    @property
    def errors(self) -> int:
        """All edits: the Levenshtein distance, where the counts are those of one pair."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per hundred reference items; 0 for no errors, inf for errors against an empty reference."""
        if self.reference_length:
            return 100.0 * self.errors / self.reference_length
        return float("inf") if self.errors else 0.0

    def __add__(self, other: EditCounts) -> EditCounts:
        return EditCounts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.reference_length + other.reference_length,
        )


def edit_counts(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> EditCounts:
    """Return the edits of one cheapest alignment, each edit at a cost of 1.

    Where several alignments cost the same, the one that substitutes rather than inserts and deletes is taken,
    walking from the end.
    """
    table = _distance_table(reference, hypothesis)
    row, column = len(reference), len(hypothesis)
    substitutions = insertions = deletions = 0
    while row or column:
        here = table[row, column]
        differs = bool(row and column and reference[row - 1] != hypothesis[column - 1])
        if row and column and table[row - 1, column - 1] + differs == here:
            row, column = row - 1, column - 1
            substitutions += differs
        elif column and table[row, column - 1] + 1 == here:
            column -= 1
            insertions += 1
        else:
            row -= 1
            deletions += 1
    return EditCounts(substitutions, insertions, deletions, len(reference))


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """Return the Levenshtein distance; by `editdistance` (C++) where it is installed, else by `edit_counts`."""
    try:
        import editdistance
    except ImportError:
        return edit_counts(reference, hypothesis).errors
    return int(editdistance.eval(reference, hypothesis))


def _distance_table(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return the (R + 1, H + 1) distances between all pairs of prefixes."""
    numbers: dict[Hashable, int] = {}
    rows = [numbers.setdefault(item, len(numbers)) for item in reference]
    columns = np.array([numbers.setdefault(item, len(numbers)) for item in hypothesis], dtype=np.int64)
    steps = np.arange(len(columns) + 1)
    table = np.empty((len(rows) + 1, len(columns) + 1), dtype=np.int64)
    table[0] = steps
    for i, item in enumerate(rows):
        table[i + 1] = table[i] + 1
        np.minimum(table[i + 1, 1:], table[i, :-1] + (columns != item), out=table[i + 1, 1:])
        # Insertions run along the row: d[j] = min over k <= j of d[k] + (j - k).
        table[i + 1] = np.minimum.accumulate(table[i + 1] - steps) + steps
    return table
