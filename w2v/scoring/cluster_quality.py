"""What the classes of frames are worth: how evenly they are used, how long they last, what they say of phones or words.

The measures are those of the original's `measure_teacher_quality.py` (Hsu et al. 2021, section 4.4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from w2v.array_types import IntArray


class ClusterQuality:
    """Counts of classes, and of pairs with reference symbols, added clip by clip.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self._counts = np.zeros(num_classes, dtype=np.int64)
        self._runs = 0
        self._pairs: Counter[tuple[int, str]] = Counter()

    def add(self, labels: IntArray, reference: Sequence[str] = ()) -> None:
        """Count a clip: (T,) classes, and the T symbols under them where there is a reference."""
        self._counts += np.bincount(labels, minlength=len(self._counts))
        self._runs += int(np.count_nonzero(np.diff(labels))) + (len(labels) > 0)
        self._pairs.update(zip(labels.tolist(), reference))

    def values(self) -> dict[str, float]:
        """Return frames, classes in use, entropy and its part of the largest possible, mean run in frames.

        With a reference also `phone_purity` (accuracy if each class meant its most frequent symbol), `cluster_purity`
        (the reverse), `mi` (bits) and `pnmi`: the part of the symbols' entropy that the class tells.
        """
        total = int(self._counts.sum())
        entropy = entropy_of(self._counts)
        values = {
            "frames": float(total),
            "used_classes": float((self._counts > 0).sum()),
            "entropy": entropy,
            "evenness": entropy / max(float(np.log2(max(len(self._counts), 2))), 1e-9),
            "mean_run": total / max(self._runs, 1),
        }
        if self._pairs:
            table = self._table()
            joint, of_symbols = entropy_of(table), entropy_of(table.sum(axis=0))
            information = entropy_of(table.sum(axis=1)) + of_symbols - joint
            values |= {
                "phone_purity": float(table.max(axis=1).sum() / table.sum()),
                "cluster_purity": float(table.max(axis=0).sum() / table.sum()),
                "mi": information,
                "pnmi": information / of_symbols if of_symbols > 0 else 0.0,
            }
        return values

    def _table(self) -> npt.NDArray[np.int64]:
        """Return (K, symbols) how often each pair occurs."""
        symbols = {symbol: place for place, symbol in enumerate(sorted({symbol for _, symbol in self._pairs}))}
        table = np.zeros((len(self._counts), len(symbols)), dtype=np.int64)
        for (label, symbol), count in self._pairs.items():
            table[label, symbols[symbol]] = count
        return table


def entropy_of(counts: npt.NDArray[np.int64]) -> float:
    """Return the entropy of shares given by counts, in bits."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no negative zero
