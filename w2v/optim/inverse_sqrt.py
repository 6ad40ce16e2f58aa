"""Linear warm-up, then decay with the root of the update number (Attention is all you need, section 5.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.config.sections import OptimizationConfig
from w2v.optim.base import Schedule, register_lr_scheduler


@dataclass(frozen=True)
class InverseSqrtConfig:
    """Options of the inverse-root schedule."""

    warmup_updates: int = arg(4000, help="updates of linear warm-up")
    warmup_init_lr: float = arg(-1.0, help="rate at update 0; -1: 0")

    def __post_init__(self) -> None:
        # The original divides by zero here.
        check_range(self, 1, math.inf, "warmup_updates")


@register_lr_scheduler("inverse_sqrt", InverseSqrtConfig)
class InverseSqrt(Schedule):
    """`lr * sqrt(W / u)` after the warm-up."""

    config: InverseSqrtConfig

    def __init__(self, config: InverseSqrtConfig, optimization: OptimizationConfig) -> None:
        super().__init__(config, optimization)
        self._peak = self.single_lr("inverse_sqrt")
        self._first = max(config.warmup_init_lr, 0.0)

    def lr(self, num_updates: int, epoch: int) -> float:
        """Return the rate for the next update."""
        warmup = self.config.warmup_updates
        if num_updates < warmup:
            return self._first + num_updates * (self._peak - self._first) / warmup
        return self._peak * math.sqrt(warmup / num_updates)
