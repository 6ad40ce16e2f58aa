"""How far one sequence is from another, and of which kind the errors are.

The distance is `rapidfuzz`'s. The alignment is our own: it fills one vectorised row of the Levenshtein table per
reference item, then walks back once. Of all alignments with the fewest edits rapidfuzz gives any one, and with it
another split into substitutions, insertions and deletions than sclite's.
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


def align(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[tuple[int | None, int | None]]:
    """Return pairs of places in reference and hypothesis; None where the other one has no partner.

    Of all alignments with the fewest edits, one with the fewest substitutions is taken, so that equal words meet.
    NIST's sclite weighs substitutions by 4 and other edits by 3; it finds the same alignment unless more edits in
    all are cheaper by its weights.
    """
    edit = len(reference) + len(hypothesis) + 1  # more than all substitutions together can add
    table = _cost_table(reference, hypothesis, edit)
    row, column = len(reference), len(hypothesis)
    pairs: list[tuple[int | None, int | None]] = []
    while row or column:
        here = table[row, column]
        meets = edit + 1 if row and column and reference[row - 1] != hypothesis[column - 1] else 0
        if row and column and table[row - 1, column - 1] + meets == here:
            row, column = row - 1, column - 1
            pairs.append((row, column))
        elif column and table[row, column - 1] + edit == here:
            column -= 1
            pairs.append((None, column))
        else:
            row -= 1
            pairs.append((row, None))
    return pairs[::-1]


def edit_counts(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> EditCounts:
    """Return the edits of the alignment that `align` finds."""
    if reference == hypothesis:
        return EditCounts(reference_length=len(reference))
    pairs = align(reference, hypothesis)
    met = [(i, j) for i, j in pairs if i is not None and j is not None]
    substitutions = sum(reference[i] != hypothesis[j] for i, j in met)
    return EditCounts(substitutions, len(hypothesis) - len(met), len(reference) - len(met), len(reference))


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """Return the Levenshtein distance."""
    from rapidfuzz.distance import Levenshtein

    return int(Levenshtein.distance(reference, hypothesis))


def _cost_table(reference: Sequence[Hashable], hypothesis: Sequence[Hashable], edit: int) -> NDArray[np.int64]:
    """Return the (R + 1, H + 1) costs between all pairs of prefixes: `edit` per edit, one more per substitution."""
    numbers: dict[Hashable, int] = {}
    rows = [numbers.setdefault(item, len(numbers)) for item in reference]
    columns = np.array([numbers.setdefault(item, len(numbers)) for item in hypothesis], dtype=np.int64)
    steps = np.arange(len(columns) + 1) * edit
    table = np.empty((len(rows) + 1, len(columns) + 1), dtype=np.int64)
    table[0] = steps
    for i, item in enumerate(rows):
        table[i + 1] = table[i] + edit
        np.minimum(table[i + 1, 1:], table[i, :-1] + (columns != item) * (edit + 1), out=table[i + 1, 1:])
        # Insertions run along the row: d[j] = min over k <= j of d[k] + (j - k) * edit.
        table[i + 1] = np.minimum.accumulate(table[i + 1] - steps) + steps
    return table
