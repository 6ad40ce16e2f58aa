"""Warm-up, hold, exponential decay (CTC fine-tuning; SpecAugment, arXiv:1904.08779, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range, float_triple
from w2v.config.sections import OptimizationConfig
from w2v.errors import ConfigError
from w2v.optim.base import Schedule, register_lr_scheduler


@dataclass(frozen=True)
class TriStageConfig:
    """Options of the three-stage schedule."""

    warmup_steps: int = arg(4000, help="updates of linear warm-up")
    hold_steps: int = arg(20_000, help="updates at the full rate")
    decay_steps: int = arg(60_000, help="updates of exponential decay")
    phase_ratio: tuple[float, float, float] | None = arg(
        None,
        help="shares of --max-update for warm-up, hold and decay, such as '(0.1, 0.4, 0.5)'; replaces the three above",
        parse=float_triple,
    )
    init_lr_scale: float = arg(0.01, help="first rate, as a share of --lr")
    final_lr_scale: float = arg(0.01, help="last rate, as a share of --lr")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "warmup_steps", "hold_steps", "decay_steps")
        check_range(self, 0, 1, "init_lr_scale")
        if self.phase_ratio is not None and (min(self.phase_ratio) < 0 or abs(sum(self.phase_ratio) - 1) > 1e-6):
            raise ConfigError(f"--phase-ratio must be three shares that add up to 1, got {self.phase_ratio}")
        if not 0 < self.final_lr_scale <= 1:
            raise ConfigError(f"--final-lr-scale must lie in (0, 1], got {self.final_lr_scale!r}")


@register_lr_scheduler("tri_stage", TriStageConfig)
class TriStage(Schedule):
    """Linear up, constant, exponential down, then constant again."""

    config: TriStageConfig

    def __init__(self, config: TriStageConfig, optimization: OptimizationConfig) -> None:
        super().__init__(config, optimization)
        self._peak = self.single_lr("tri_stage")
        self._warmup, self._hold, self._decay = config.warmup_steps, config.hold_steps, config.decay_steps
        if config.phase_ratio is not None:
            if not optimization.max_update:
                raise ConfigError("--phase-ratio needs --max-update: it gives shares of that")
            self._warmup, self._hold, self._decay = (int(optimization.max_update * r) for r in config.phase_ratio)

    def lr(self, num_updates: int, epoch: int) -> float:
        """Return the rate for the next update."""
        config, peak = self.config, self._peak
        if num_updates < self._warmup:
            first = config.init_lr_scale * peak
            return first + (peak - first) * num_updates / self._warmup
        # Negative while the rate is held.
        decayed = num_updates - self._warmup - self._hold
        if decayed < 0:
            return peak
        if self._decay > 0 and decayed <= self._decay:
            # A straight line in the logarithm, down to final_lr_scale * peak.
            return peak * math.exp(math.log(config.final_lr_scale) * decayed / self._decay)
        return peak * config.final_lr_scale
