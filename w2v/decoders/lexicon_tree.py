"""The lexicon as a prefix tree in arrays: a search walks thousands of nodes with a few numpy calls.

Nodes are numbered breadth first, so that those below a node lie side by side. Each knows the best first-word score of
the words below it ("smearing"), which a search gives in advance for words that it has only begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2v.array_types import FloatArray, IntArray

ROOT = 0


@dataclass(frozen=True)
class LexiconTree:
    """Spellings that share their beginnings.

    Attributes:
        best: (N,) best score of the words at or below a node; 0 for the root.
        is_word: (N,) whether a word ends at a node.
        branch_start: (N + 1,) the steps from node i to nodes with something below are rows branch_start[i] to
            branch_start[i + 1] of the next two.
        branch_node: the node that a step leads to.
        branch_symbol: the symbol of that node.
        branch_gain: how much the best score below that node differs from the one before; never above 0.
        ending_start: (N + 1,) the words that one more symbol after node i completes, likewise.
        ending_symbol: the last symbol of the word.
        ending_word: the number of the word.
    """

    best: FloatArray
    is_word: npt.NDArray[np.bool_]
    branch_start: IntArray
    branch_node: IntArray
    branch_symbol: IntArray
    branch_gain: FloatArray
    ending_start: IntArray
    ending_symbol: IntArray
    ending_word: IntArray

    @classmethod
    def build(cls, spellings: Sequence[Sequence[int]], words: Sequence[int], scores: FloatArray) -> LexiconTree:
        """Put spellings into a tree.

        As in flashlight-text, the score of a node where several words end is the logarithm of the sum of theirs, that
        of a node further up the largest of those below.

        Args:
            spellings: symbols of each spelling, at least one.
            words: the number of the word that each stands for.
            scores: (W,) score of each word.
        """
        table = np.full((len(spellings), max(map(len, spellings))), -1, dtype=np.int64)
        for row, spelling in enumerate(spellings):
            table[row, : len(spelling)] = spelling
        order = np.lexsort(table.T[::-1])
        table, word_of_row = table[order], np.asarray(words, dtype=np.int64)[order]
        nodes, parents, symbols, depths = _number(table)
        lengths = (table >= 0).sum(axis=1)
        ends = nodes[np.arange(len(table)), lengths - 1]
        best = np.full(len(parents), -np.inf)
        np.logaddexp.at(best, ends, np.asarray(scores, dtype=np.float64)[order])
        for depth in range(int(depths.max()), 0, -1):
            level = np.flatnonzero(depths == depth)
            np.maximum.at(best, parents[level], best[level])
        best[ROOT] = 0.0
        is_word = np.zeros(len(parents), dtype=bool)
        is_word[ends] = True
        has_more = np.bincount(parents[1:], minlength=len(parents)) > 0
        has_more[ROOT] = False
        branch_node = np.flatnonzero(has_more)
        by_parent = np.argsort(parents[ends], kind="stable")
        return cls(
            best=best,
            is_word=is_word,
            branch_start=_starts(parents[branch_node], len(parents)),
            branch_node=branch_node,
            branch_symbol=symbols[branch_node],
            branch_gain=best[branch_node] - best[parents[branch_node]],
            ending_start=_starts(parents[ends], len(parents)),
            ending_symbol=symbols[ends][by_parent],
            ending_word=word_of_row[by_parent],
        )


def _number(table: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Number the prefixes of sorted spellings, breadth first.

    Args:
        table: (W, L) spellings in rising order, filled up with -1.

    Returns:
        (W, L) node of each prefix; (N,) parent, symbol and depth of each node, the root first.
    """
    differs = np.ones(table.shape, dtype=bool)
    differs[1:] = np.logical_or.accumulate(table[1:] != table[:-1], axis=1)
    is_new = (differs & (table >= 0)).T
    depths, rows = np.nonzero(is_new)
    numbers = np.zeros(is_new.shape, dtype=np.int64)
    numbers[is_new] = np.arange(1, len(rows) + 1)
    # Spellings that share a prefix are neighbours: the last new node above a row is its own.
    nodes = np.maximum.accumulate(numbers, axis=1).T
    parents = np.where(depths > 0, nodes[rows, depths - 1], ROOT)
    return (
        nodes,
        np.concatenate([[-1], parents]),
        np.concatenate([[-1], table[rows, depths]]),
        np.concatenate([[0], depths + 1]),
    )


def _starts(parents: IntArray, num_nodes: int) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.bincount(parents, minlength=num_nodes))])


def expand(starts: IntArray, nodes: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """Return the rows that belong to nodes.

    Args:
        starts: `branch_start` or `ending_start`.
        nodes: (N,) nodes.
        chosen: (M,) which of them.

    Returns:
        for each row which of (N,) nodes it belongs to, and the row.
    """
    first = starts[nodes[chosen]]
    counts = starts[nodes[chosen] + 1] - first
    ends = np.cumsum(counts)
    shifts = np.repeat(first - ends + counts, counts)
    return np.repeat(chosen, counts), np.arange(len(shifts)) + shifts
