"""Adam as in the original: decoupled weight decay on every tensor, epsilon outside the bias correction.

Formulas: p -= lr * wd * p; p -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps), where t counts the steps
in which this very parameter had a gradient. Kingma & Ba (2015), the paragraph before section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from w2v.config import arg, check_range, float_pair
from w2v.errors import ConfigError
from w2v.optim.base import Optimizer, register_optimizer


@dataclass(frozen=True)
class AdamConfig:
    """Options of Adam."""

    adam_betas: tuple[float, float] = arg(
        (0.9, 0.999), help="decay of the running mean and of the running square of gradients", parse=float_pair
    )
    adam_eps: float = arg(1e-8, help="added to the root of the running square, which is not bias-corrected")
    weight_decay: float = arg(0.0, help="share of every parameter taken away per step, times the learning rate")
    use_old_adam: bool = arg(False, help="accepted; there is only one Adam here")

    def __post_init__(self) -> None:
        check_range(self, 0, math.inf, "adam_eps", "weight_decay")
        if any(not 0 <= beta < 1 for beta in self.adam_betas):
            raise ConfigError(f"--adam-betas must lie in [0, 1), got {self.adam_betas!r}")


@register_optimizer("adam", AdamConfig)
class Adam(Optimizer):
    """Adam through torch's fused kernel: one pass over parameters, gradients and moments."""

    config: AdamConfig

    def __init__(self, config: AdamConfig, parameters: Iterable[torch.nn.Parameter]) -> None:
        super().__init__(config, parameters)
        self._counted: list[dict[str, Any]] = []

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor | None = None) -> None:
        """Change every parameter that has a gradient (see the base class)."""
        groups: dict[tuple[int, torch.device], list[int]] = {}
        self._counted = []
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            # Made at the first gradient: a part that is set free later begins its own count, without disturbing others.
            entry = self.state.setdefault(i, {})
            if not entry:
                entry.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
            entry["step"] += 1  # on the host, and taken back if the device has skipped the update
            self._counted.append(entry)
            # One fused kernel per count: nearly always one, two after parts were set free.
            groups.setdefault((entry["step"], parameter.device), []).append(i)
        for (count, device), members in groups.items():
            self._step_group(members, count, device, lr, skip)

    def undo_count(self) -> None:
        """Take back the step counts of the last `step`."""
        for entry in self._counted:
            entry["step"] -= 1
        self._counted = []

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constants under the names of `torch.optim`."""
        return {
            "betas": list(self.config.adam_betas),
            "eps": self.config.adam_eps,
            "weight_decay": self.config.weight_decay,
            "amsgrad": False,
        }

    def _step_group(self, members: list[int], count: int, device: torch.device, lr: float, skip: Tensor | None) -> None:
        parameters = [self.parameters[i] for i in members]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # The kernel wants one counter per parameter and advances it itself. Ours live on the host, because `eps`
        # below depends on them; these are windows on one fresh tensor, filled without a copy from the host.
        counters = list(torch.full((len(members),), count - 1.0, dtype=torch.float32, device=device).unbind())
        beta1, beta2 = self.config.adam_betas
        adamw(
            list[Tensor](parameters),
            gradients,
            [self.state[i]["exp_avg"] for i in members],
            [self.state[i]["exp_avg_sq"] for i in members],
            [],
            counters,
            fused=True,
            found_inf=skip,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=self.config.weight_decay,
            # torch divides sqrt(v) by sqrt(1 - beta2^t) before it adds eps; the original adds eps first.
            eps=self.config.adam_eps / math.sqrt(1 - beta2**count),
            maximize=False,
        )
