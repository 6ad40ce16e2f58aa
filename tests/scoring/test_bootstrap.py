"""The bootstrap against all sets that could be drawn, and against the normal approximation of large ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from w2v.scoring import bootstrap
from w2v.scoring.bootstrap import bootstrap_rates, interval


def test_rates_are_those_of_all_sets_that_can_be_drawn() -> None:
    errors, lengths = [0, 3, 1], [2, 4, 9]
    sets = itertools.product(range(3), repeat=3)
    expected = [100 * sum(errors[i] for i in rows) / sum(lengths[i] for i in rows) for rows in sets]
    rates = bootstrap_rates(errors, lengths, 40_000, np.random.default_rng(0))
    values, counts = np.unique(np.round(rates, 9), return_counts=True)
    wanted, shares = np.unique(np.round(expected, 9), return_counts=True)
    np.testing.assert_allclose(values, wanted)
    # Five standard deviations of a count.
    np.testing.assert_allclose(counts / 40_000, shares / 27, atol=5 * np.sqrt(0.25 / 40_000))


def test_large_sets_follow_the_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(5, 40, size=2000)
    errors = rng.binomial(lengths, 0.1)
    rate = errors.sum() / lengths.sum()
    # Of a ratio of sums (Cochran 1977, section 6.4).
    deviation = 100 * np.sqrt(((errors - rate * lengths) ** 2).sum()) / lengths.sum()
    low, high = interval(bootstrap_rates(errors.tolist(), lengths.tolist(), 4000, np.random.default_rng(2)))
    assert low == pytest.approx(100 * rate - 1.96 * deviation, abs=0.1 * deviation)
    assert high == pytest.approx(100 * rate + 1.96 * deviation, abs=0.1 * deviation)


def test_parts_of_the_work_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap_rates([1, 0, 2], [3, 3, 4], 50, np.random.default_rng(3))
    monkeypatch.setattr(bootstrap, "AT_ONCE", 21)
    np.testing.assert_array_equal(whole, bootstrap_rates([1, 0, 2], [3, 3, 4], 50, np.random.default_rng(3)))


def test_the_interval_leaves_equal_tails() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    assert interval(np.arange(1001.0), 0.5) == pytest.approx((250.0, 750.0))
