"""Equal histories are one node, whatever the order in which they come."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.lm.prefix_tree import NONE, PrefixTree

histories = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=30)


def grow(tree: PrefixTree, rows: list[list[int]]) -> list[int]:
    """Return the node of each history; all histories take their next step together."""
    nodes = np.full(len(rows), NONE)
    for place in range(max(map(len, rows))):
        going = np.array([i for i, row in enumerate(rows) if len(row) > place])
        nodes[going] = tree.children(nodes[going], np.array([rows[i][place] for i in going]))
    return nodes.tolist()


@settings(max_examples=100)
@given(rows=histories, more=histories)
def test_nodes_are_histories(rows: list[list[int]], more: list[list[int]]) -> None:
    tree = PrefixTree(4)
    by_history: dict[tuple[int, ...], int] = {}
    for some in (rows, more):
        for row, node in zip(some, grow(tree, some), strict=True):
            assert by_history.setdefault(tuple(row), node) == node
            assert tree.words[node] == row[-1]
    assert len(set(by_history.values())) == len(by_history)
    prefixes = {tuple(row[:end]) for row in [*rows, *more] for end in range(1, len(row) + 1)}
    assert tree.size == len(prefixes)
    nodes = np.array(list(by_history.values()))
    for history, path in zip(by_history, tree.paths(nodes), strict=True):
        above = path[path != NONE]
        assert path.tolist() == [NONE] * (len(path) - len(above)) + above.tolist()
        assert tree.words[above].tolist() == list(history[:-1])


def test_truncation_forgets() -> None:
    tree = PrefixTree(10)
    grow(tree, [[5], [5, 6], [5, 7]])
    tree.truncate(1)
    assert tree.size == 1
    assert grow(tree, [[5], [5, 7]]) == [0, 1]
