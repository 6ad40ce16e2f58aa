"""The prefix tree in arrays against one of dictionaries."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.decoders.lexicon_tree import ROOT, LexiconTree, expand

SPELLINGS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12)


@settings(max_examples=150)
@given(spellings=SPELLINGS, seed=st.integers(0, 99))
def test_walks_as_a_tree_of_dictionaries_does(spellings: list[tuple[int, ...]], seed: int) -> None:
    scores = -np.random.default_rng(seed).exponential(3.0, len(spellings))
    tree = LexiconTree.build(spellings, range(len(spellings)), scores)
    prefixes = {spelling[:length] for spelling in spellings for length in range(len(spelling) + 1)}

    def best(prefix: tuple[int, ...]) -> float:
        own = [math.exp(score) for spelling, score in zip(spellings, scores, strict=True) if spelling == prefix]
        below = [best(other) for other in prefixes if len(other) == len(prefix) + 1 and other[:-1] == prefix]
        return max([math.log(sum(own)) if own else -math.inf, *below])

    def check(node: int, prefix: tuple[int, ...]) -> None:
        before = 0.0 if node == ROOT else best(prefix)
        assert math.isclose(tree.best[node], before)
        assert tree.is_word[node] == (prefix in spellings)
        _, branches = expand(tree.branch_start, np.array([node]), np.array([0]))
        open_prefixes = {other[: len(prefix) + 1] for other in prefixes if len(other) > len(prefix) + 1}
        wanted = {other[-1] for other in open_prefixes if other[:-1] == prefix}
        assert sorted(tree.branch_symbol[branches].tolist()) == sorted(wanted)
        for branch in branches:
            longer = (*prefix, int(tree.branch_symbol[branch]))
            assert math.isclose(tree.branch_gain[branch], best(longer) - before, abs_tol=1e-9)
            check(int(tree.branch_node[branch]), longer)
        _, endings = expand(tree.ending_start, np.array([node]), np.array([0]))
        found = [(int(tree.ending_symbol[row]), int(tree.ending_word[row])) for row in endings]
        assert sorted(found) == sorted((s[-1], word) for word, s in enumerate(spellings) if s[:-1] == prefix)

    check(ROOT, ())


def test_rows_of_chosen_nodes() -> None:
    starts = np.array([0, 2, 2, 5])
    of, rows = expand(starts, np.array([2, 0, 1, 2]), np.array([0, 2, 3]))
    assert of.tolist() == [0, 0, 0, 3, 3, 3]
    assert rows.tolist() == [2, 3, 4, 2, 3, 4]
