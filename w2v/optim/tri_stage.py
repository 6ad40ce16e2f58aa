"""Warm-up, hold, exponential decay (CTC fine-tuning; SpecAugment, arXiv:1904.08779, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.config.sections import OptimizationConfig
from w2v.errors import ConfigError
from w2v.optim.base import Schedule, register_lr_scheduler


@dataclass(frozen=True)
class TriStageConfig:
    """Options of the three-stage schedule."""

    warmup_steps: int = arg(4000, help="updates of linear warm-up")
    hold_steps: int = arg(20_000, help="updates at the full rate")
    decay_steps: int = arg(60_000, help="updates of exponential decay")
    init_lr_scale: float = arg(0.01, help="first rate, as a share of --lr")
    final_lr_scale: float = arg(0.01, help="last rate, as a share of --lr")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "warmup_steps", "hold_steps", "decay_steps")
        check_range(self, 0, 1, "init_lr_scale")
        if not 0 < self.final_lr_scale <= 1:
            raise ConfigError(f"--final-lr-scale must lie in (0, 1], got {self.final_lr_scale!r}")


@register_lr_scheduler("tri_stage", TriStageConfig)
class TriStage(Schedule):
    """Linear up, constant, exponential down, then constant again."""

    config: TriStageConfig

    def __init__(self, config: TriStageConfig, optimization: OptimizationConfig) -> None:
        super().__init__(config, optimization)
        self._peak = self.single_lr("tri_stage")

    def lr(self, num_updates: int, epoch: int) -> float:
        """Return the rate for the next update."""
        config, peak = self.config, self._peak
        if num_updates < config.warmup_steps:
            first = config.init_lr_scale * peak
            return first + (peak - first) * num_updates / config.warmup_steps
        # Negative while the rate is held.
        decayed = num_updates - config.warmup_steps - config.hold_steps
        if decayed < 0:
            return peak
        if config.decay_steps > 0 and decayed <= config.decay_steps:
            # A straight line in the logarithm, down to final_lr_scale * peak.
            return peak * math.exp(math.log(config.final_lr_scale) * decayed / config.decay_steps)
        return peak * config.final_lr_scale
