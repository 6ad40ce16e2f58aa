"""One rate per epoch, with an optional warm-up and an optional decay by epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.optim.base import Schedule, register_lr_scheduler


@dataclass(frozen=True)
class FixedConfig:
    """Options of the fixed schedule."""

    force_anneal: int | None = arg(None, help="epoch at which the rate begins to shrink", aliases=("--fa",))
    lr_shrink: float = arg(0.1, help="factor per epoch from --force-anneal on")
    warmup_updates: int = arg(0, help="updates of linear warm-up; the first one has rate lr / N")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "warmup_updates", "lr_shrink")
        check_range(self, 1, math.inf, "force_anneal")


@register_lr_scheduler("fixed", FixedConfig)
class Fixed(Schedule):
    """The rate that `--lr` gives for the epoch, times the warm-up's share."""

    config: FixedConfig

    def lr(self, num_updates: int, epoch: int) -> float:
        """Return the rate for the next update."""
        config = self.config
        if config.force_anneal is None or epoch < config.force_anneal:
            rate = self.epoch_lr(epoch)
        else:
            # The epoch of --force-anneal shrinks already.
            rate = self.rates[-1] * config.lr_shrink ** (epoch + 1 - config.force_anneal)
        # + 1, unlike the other schedules: the first update has the rate lr / N.
        if num_updates < config.warmup_updates:
            rate *= (num_updates + 1) / config.warmup_updates
        return rate
