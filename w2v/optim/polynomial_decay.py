"""Linear warm-up from zero, then a polynomial down to an end value (wav2vec 2.0 pretraining)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.config.sections import OptimizationConfig
from w2v.errors import ConfigError
from w2v.optim.base import Schedule, register_lr_scheduler


@dataclass(frozen=True)
class PolynomialDecayConfig:
    """Options of the polynomial schedule."""

    warmup_updates: int = arg(0, help="updates of linear warm-up from 0")
    total_num_update: int | None = arg(
        None, help="update at which the decay ends (default: --max-update, or 1,000,000 without that)"
    )
    power: float = arg(1.0, help="exponent of the decay")
    end_learning_rate: float = arg(0.0, help="rate at the end of the decay")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "warmup_updates", "end_learning_rate", "power")
        check_range(self, 1, math.inf, "total_num_update")


@register_lr_scheduler("polynomial_decay", PolynomialDecayConfig)
class PolynomialDecay(Schedule):
    """`(lr - end) * (1 - (u - W) / (T - W)) ** power + end`; the first step has rate 0 if there is a warm-up."""

    config: PolynomialDecayConfig

    def __init__(self, config: PolynomialDecayConfig, optimization: OptimizationConfig) -> None:
        super().__init__(config, optimization)
        # As in the later releases of the original; in 2020 the decay ended at 1,000,000 by default.
        self._end = config.total_num_update or optimization.max_update or 1_000_000
        if self._end <= config.warmup_updates:
            flag = "--total-num-update" if config.total_num_update else "--max-update"
            raise ConfigError(
                f"{flag} must be above --warmup-updates, got {self._end} and {config.warmup_updates}; lower the latter"
            )

    def lr(self, num_updates: int, epoch: int) -> float:
        """Return the rate for the next update."""
        config = self.config
        peak = self.epoch_lr(epoch)
        # u = 0 gives rate 0, as in the original: the first update of a warm-up changes nothing but the moments.
        if config.warmup_updates > 0 and num_updates <= config.warmup_updates:
            return num_updates / config.warmup_updates * peak
        if num_updates >= self._end:
            return config.end_learning_rate
        # From 1 at the end of the warm-up to 0 where the decay ends.
        left = 1 - (num_updates - config.warmup_updates) / (self._end - config.warmup_updates)
        return float((peak - config.end_learning_rate) * left**config.power + config.end_learning_rate)
