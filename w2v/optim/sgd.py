"""Stochastic gradient descent with momentum and weight decay (coupled, as in the original)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from w2v.config import arg, check_range
from w2v.optim.base import Optimizer, register_optimizer


@dataclass(frozen=True)
class SgdConfig:
    """Options of gradient descent."""

    momentum: float = arg(0.0, help="share of the previous step that is added to this one")
    weight_decay: float = arg(0.0, help="times the parameter: added to its gradient")

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "momentum")
        check_range(self, 0, math.inf, "weight_decay")


@register_optimizer("sgd", SgdConfig)
class Sgd(Optimizer):
    """Gradient descent through torch's fused kernel."""

    config: SgdConfig

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor | None = None) -> None:
        """Change every parameter that has a gradient (see the base class)."""
        members = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        # Buffers that are already there come first: the kernel starts a missing one with the gradient itself, and
        # its first step must be told from the later ones. A buffer of zeros gives the same first step.
        momentum = self.config.momentum > 0
        if momentum:
            for i in members:
                self.state.setdefault(i, {"momentum_buffer": torch.zeros_like(self.parameters[i])})
        if not members:
            return
        parameters = [self.parameters[i] for i in members]
        sgd(
            list[Tensor](parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [self.state[i]["momentum_buffer"] if momentum else None for i in members],
            fused=True,
            found_inf=skip,
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constants under the names of `torch.optim`."""
        return {"momentum": self.config.momentum, "weight_decay": self.config.weight_decay}
