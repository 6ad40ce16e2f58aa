"""Warm restarts along cosines (wav2vec and vq-wav2vec pretraining; SGDR, arXiv:1608.03983).

Two dialects of the original are understood. With `--max-lr` (the published commands) `--lr` is the floor,
`--max-lr` the peak and `--min-lr` ends training. Without it (later releases) `--lr` is the peak, `--min-lr` the
floor and `--stop-min-lr` ends training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.config.sections import OptimizationConfig
from w2v.errors import ConfigError
from w2v.optim.base import Schedule, register_lr_scheduler


@dataclass(frozen=True)
class CosineConfig:
    """Options of the cosine schedule."""

    warmup_updates: int = arg(0, help="updates of linear warm-up to the peak")
    warmup_init_lr: float = arg(-1.0, help="rate at update 0; -1: the floor")
    max_lr: float | None = arg(
        None, help="peak, with --lr as the floor; left out: --lr is the peak, --min-lr the floor"
    )
    t_mult: float = arg(1.0, help="each period is this many times as long as the one before")
    lr_period_updates: float = arg(-1.0, help="updates of the first period; -1: --max-update less the warm-up")
    lr_shrink: float = arg(0.1, help="factor on peak and floor with each period")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "warmup_updates", "lr_shrink")
        check_range(self, 1, math.inf, "t_mult")


@register_lr_scheduler("cosine", CosineConfig)
class Cosine(Schedule):
    """Half a cosine from peak to floor in each period; at `--max-update` a new, smaller period begins."""

    config: CosineConfig

    def __init__(self, config: CosineConfig, optimization: OptimizationConfig) -> None:
        super().__init__(config, optimization)
        rate = self.single_lr("cosine")
        if config.max_lr is not None:
            self._floor, self._peak, names = rate, config.max_lr, "--max-lr must be above --lr"
        else:
            self._floor, self._peak, names = max(optimization.min_lr, 0.0), rate, "--lr must be above --min-lr"
            self.stop_lr = -1.0 if optimization.stop_min_lr is None else optimization.stop_min_lr
        if self._peak <= self._floor:
            raise ConfigError(f"{names} with --lr-scheduler cosine, got {self._peak:g} and {self._floor:g}")
        self._first = self._floor if config.warmup_init_lr < 0 else config.warmup_init_lr
        self._period = config.lr_period_updates
        if self._period <= 0:
            self._period = optimization.max_update - config.warmup_updates
            if self._period <= 0:
                raise ConfigError(
                    "--lr-scheduler cosine needs --lr-period-updates, or a --max-update above --warmup-updates, got "
                    f"{optimization.max_update} and {config.warmup_updates}"
                )

    def lr(self, num_updates: int, epoch: int) -> float:
        """Return the rate for the next update."""
        warmup = self.config.warmup_updates
        if num_updates < warmup:
            return self._first + num_updates * (self._peak - self._first) / warmup
        done = num_updates - warmup
        growth, period = self.config.t_mult, self._period
        # Which period this is, and where it began: sums of a geometric series where periods grow.
        if growth == 1:
            number = math.floor(done / period)
            begin = number * period
        else:
            number = math.floor(math.log(1 - done / period * (1 - growth), growth))
            begin = (1 - growth**number) / (1 - growth) * period
            period *= growth**number
        shrink = self.config.lr_shrink**number  # peak and floor are lower with each period
        floor, peak = self._floor * shrink, self._peak * shrink
        return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * (done - begin) / period))
