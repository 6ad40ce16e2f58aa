"""Schedules beyond the recorded tables: both dialects of cosine, lists of rates, options that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from w2v.config import build_config
from w2v.config.sections import OptimizationConfig
from w2v.errors import ConfigError
from w2v.optim import LR_SCHEDULERS, Schedule, build_schedule


def make(name: str, optimization: dict[str, Any], **options: Any) -> Schedule:
    entry = LR_SCHEDULERS.get(name)
    return build_schedule(entry, build_config(entry.config, options, name), OptimizationConfig(**optimization))


def test_both_dialects_of_cosine_are_one_curve() -> None:
    old = make("cosine", {"lr": (1e-6,), "max_update": 100, "min_lr": 1e-9}, max_lr=1e-3, warmup_updates=10)
    new = make("cosine", {"lr": (1e-3,), "max_update": 100, "min_lr": 1e-6, "stop_min_lr": 1e-9}, warmup_updates=10)
    assert [old.lr(u, 1) for u in range(100)] == [new.lr(u, 1) for u in range(100)]
    assert (old.stop_lr, new.stop_lr) == (1e-9, 1e-9)
    assert old.lr(10, 1) == pytest.approx(1e-3)
    assert old.lr(99, 1) == pytest.approx(1e-6, rel=0.5)
    # The floor of the newer dialect does not end training.
    assert make("cosine", {"lr": (1e-3,), "max_update": 100, "min_lr": 1e-6}).stop_lr == -1


def test_min_lr_ends_training_with_every_other_schedule() -> None:
    assert make("fixed", {"lr": (1e-3,), "min_lr": 1e-6}).stop_lr == 1e-6
    assert make("fixed", {"lr": (1e-3,), "min_lr": 1e-6, "stop_min_lr": 1e-7}).stop_lr == 1e-7


def test_rates_by_epoch() -> None:
    fixed = make("fixed", {"lr": (0.3, 0.2)})
    assert [fixed.lr(0, epoch) for epoch in (1, 2, 3)] == [0.3, 0.2, 0.2]
    polynomial = make("polynomial_decay", {"lr": (0.4, 0.2)}, total_num_update=10)
    assert (polynomial.lr(5, 1), polynomial.lr(5, 2)) == (pytest.approx(0.2), pytest.approx(0.1))


def test_stages_may_be_empty() -> None:
    stages = make("tri_stage", {"lr": (1.0,)}, warmup_steps=0, hold_steps=2, decay_steps=0, final_lr_scale=0.1)
    assert [stages.lr(u, 1) for u in range(4)] == [1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("name", "optimization", "options", "message"),
    [
        ("cosine", {"lr": (1e-3,)}, {}, "--max-update"),
        ("cosine", {"lr": (1e-3,), "max_update": 9}, {"max_lr": 1e-4}, "--max-lr must be above --lr"),
        ("cosine", {"lr": (1e-3,), "max_update": 9, "min_lr": 1.0}, {}, "--lr must be above --min-lr"),
        ("cosine", {"lr": (1e-3, 1e-4), "max_update": 9}, {}, "--lr must be a single number"),
        ("tri_stage", {"lr": (1e-3, 1e-4)}, {}, "--lr must be a single number"),
        ("tri_stage", {"lr": (1e-3,)}, {"final_lr_scale": 0.0}, "--final-lr-scale"),
        ("inverse_sqrt", {"lr": (1e-3,)}, {"warmup_updates": 0}, "--warmup-updates must be at least 1"),
        ("polynomial_decay", {"lr": (1e-3,)}, {"warmup_updates": 9, "total_num_update": 9}, "--total-num-update"),
    ],
)
def test_options_that_do_not_fit(
    name: str, optimization: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, optimization, **options)
