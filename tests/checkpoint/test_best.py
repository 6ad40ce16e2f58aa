"""The best and the N best, against a sort of everything that was ever validated."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2v.checkpoint.best import BestScores

SCORES = st.lists(st.sampled_from([3.4461, 3.4462, 3.448, 3.448, 3.4, 25.0, -1.0]) | st.floats(-9, 9), max_size=30)


@given(SCORES, st.integers(0, 5), st.booleans(), st.sets(st.integers(0, 30)))
def test_the_best_are_those_of_a_sort(scores: list[float], keep: int, maximize: bool, restarts: set[int]) -> None:
    found = BestScores("loss", maximize, keep)
    for update, score in enumerate(scores):
        if update in restarts:
            state = found.state_dict()
            found = BestScores("loss", maximize, keep)
            assert found.load_state_dict(state)
        before = list(found.kept)
        is_best, is_kept = found.note(score, update)
        ranked = sorted(
            enumerate(scores[: update + 1]), key=lambda entry: (-entry[1] if maximize else entry[1], entry[0])
        )
        assert (found.best_update, found.best) == ranked[0]
        assert is_best == (ranked[0][0] == update)
        assert found.kept == [(score, number) for number, score in ranked[:keep]]
        assert is_kept == (found.kept != before)


def test_a_validation_that_is_made_again_counts_once() -> None:
    found = BestScores("loss", False, 3)
    for score, update in ((5.0, 1), (4.0, 2), (4.5, 2)):
        found.note(score, update)
    assert found.kept == [(4.5, 2), (5.0, 1)]


@pytest.mark.parametrize(("metric", "maximize"), [("wer", False), ("loss", True)])
def test_scores_of_something_else_are_left_out(metric: str, maximize: bool, caplog: pytest.LogCaptureFixture) -> None:
    found = BestScores("loss", False, 2)
    found.note(3.0, 7)
    other = BestScores(metric, maximize, 2)
    with caplog.at_level(logging.WARNING):
        assert not other.load_state_dict(found.state_dict())
    assert (other.best, other.kept) == (None, [])
    assert "--best-checkpoint-metric loss" in caplog.text


def test_scores_of_earlier_releases_are_read() -> None:
    found = BestScores("loss", False, 2)
    assert found.load_state_dict({"best": 3.25})
    assert (found.best, found.best_update, found.kept) == (3.25, None, [])
