"""What every optimizer and every learning-rate schedule offers, and the registries behind `--optimizer` and
`--lr-scheduler`.

An optimizer takes the learning rate with each step and may be told, by a tensor that the host has not read, to
leave everything as it is. A schedule is a pure function of the updates done, so it has no state to be restored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from w2v.config.sections import OptimizationConfig
from w2v.errors import CheckpointError, ConfigError
from w2v.registry import Entry, Registry


class Optimizer:
    """Base class of optimizers.

    `parameters` holds *all* parameters of the model, frozen ones too: the place in this list is the number under
    which a parameter's state is saved, and state is made at the first gradient, so that a parameter which is
    frozen at first can join later without disturbing anybody's state.

    Args:
        config: the optimizer's own options.
        parameters: the model's parameters, in `model.parameters()` order.
    """

    def __init__(self, config: Any, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.config = config
        self.parameters = list(parameters)
        self.state: dict[int, dict[str, Any]] = {}

    def step(self, lr: float, skip: Tensor | None = None) -> None:
        """Change every parameter that has a gradient.

        Args:
            lr: learning rate.
            skip: scalar float32 tensor on the parameters' device; where it holds 1, parameters and moments stay as
                they are. Step counts on the host advance all the same until `undo_count`.
        """
        raise NotImplementedError

    def undo_count(self) -> None:
        """Take back the step counts of the last `step`, which has turned out to be skipped."""

    def zero_grad(self) -> None:
        """Drop all gradients, so that a parameter without one is told from one with a gradient of zeros."""
        for parameter in self.parameters:
            parameter.grad = None

    def hyperparameters(self) -> dict[str, Any]:
        """Return what `state_dict` writes beside the numbers of the parameters."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the layout of `torch.optim` and of the original."""
        group = {**self.hyperparameters(), "params": list(range(len(self.parameters)))}
        return {"state": {i: dict(entry) for i, entry in self.state.items()}, "param_groups": [group]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state; hyperparameters come from the command line, not from the file.

        Raises:
            CheckpointError: the state belongs to a model with other parameters.
        """
        numbers = [i for group in state["param_groups"] for i in group["params"]]
        if len(numbers) != len(self.parameters):
            raise CheckpointError(
                f"the saved optimizer holds {len(numbers)} parameters, the model has {len(self.parameters)}; "
                "give --reset-optimizer to start with a fresh one"
            )
        self.state = {i: self._placed(i, entry) for i, entry in state["state"].items()}

    def _placed(self, i: int, entry: dict[str, Any]) -> dict[str, Any]:
        parameter = self.parameters[i]
        placed: dict[str, Any] = {}
        for name, value in entry.items():
            if not isinstance(value, Tensor):
                placed[name] = value
            elif value.shape == parameter.shape:
                # A copy: the loaded tensor may be a window on the checkpoint file.
                placed[name] = value.to(parameter.device, torch.float32, copy=True)
            else:
                raise CheckpointError(
                    f"the saved optimizer's {name} of parameter {i} has shape {tuple(value.shape)}, the parameter "
                    f"has {tuple(parameter.shape)}; give --reset-optimizer to start with a fresh one"
                )
        return placed


class Schedule:
    """Base class of learning-rate schedules.

    Args:
        config: the schedule's own options.
        optimization: `--lr`, `--min-lr`, `--max-update`.

    Raises:
        ConfigError: `--lr` is not given.

    Attributes:
        rates: `--lr`, one number or one per epoch.
        stop_lr: training ends when the rate falls to this (`--min-lr`, or `--stop-min-lr`).
        stop_flag: the one of these flags that says so.
    """

    def __init__(self, config: Any, optimization: OptimizationConfig) -> None:
        self.config = config
        self.optimization = optimization
        if optimization.lr is None:
            raise ConfigError(
                "--lr is required, such as --lr 0.0005 for pretraining BASE or 0.00003 for fine-tuning it (or --recipe)"
            )
        self.rates = optimization.lr
        stop = optimization.stop_min_lr
        self.stop_lr = optimization.min_lr if stop is None else stop
        self.stop_flag = "--min-lr" if stop is None else "--stop-min-lr"
        self._has_been_above, self._searched = False, 0

    def lr(self, num_updates: int, epoch: int) -> float:
        """Return the rate for the next update.

        Args:
            num_updates: updates done so far.
            epoch: the epoch being read, counted from 1.
        """
        raise NotImplementedError

    def has_fallen(self, num_updates: int, epoch: int) -> bool:
        """Whether the rate of the next update is at `stop_lr` or below, and that of an earlier one was above.

        So the low rates of a warm-up, or of the first epochs of an `--lr` list, do not count. Schedules are functions
        without a state, so this holds after a restart as well; each update is looked at once.
        """
        if self.lr(num_updates, epoch) > self.stop_lr:
            return False
        if not self._has_been_above:
            earlier = range(self._searched, num_updates)
            lists = range(1, min(epoch, len(self.rates) + 1))
            self._has_been_above = any(self.lr(update, epoch) > self.stop_lr for update in earlier) or any(
                self.lr(num_updates, other) > self.stop_lr for other in (*lists, max(epoch - 1, 1))
            )
            self._searched = num_updates
        return self._has_been_above

    def single_lr(self, name: str) -> float:
        """Return `--lr` where the schedule has no use for one rate per epoch.

        Raises:
            ConfigError: `--lr` is a list.
        """
        rates = self.rates
        if len(rates) != 1:
            raise ConfigError(f"--lr must be a single number with --lr-scheduler {name}, got {list(rates)}")
        return rates[0]

    def epoch_lr(self, epoch: int) -> float:
        """Return the rate that `--lr` gives for `epoch`; the last one holds for all later epochs."""
        rates = self.rates
        return rates[min(epoch, len(rates)) - 1]


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", "--optimizer", Optimizer)
register_optimizer = OPTIMIZERS.register

LR_SCHEDULERS: Registry[Schedule] = Registry("learning-rate schedule", "--lr-scheduler", Schedule)
register_lr_scheduler = LR_SCHEDULERS.register


def build_optimizer(entry: Entry[Optimizer], config: Any, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Build an optimizer over all parameters of the model, frozen ones included."""
    return entry.cls(config, parameters)


def build_schedule(entry: Entry[Schedule], config: Any, optimization: OptimizationConfig) -> Schedule:
    """Build a schedule from its own options and those that it shares with the trainer.

    Raises:
        ConfigError: the options do not fit together.
    """
    return entry.cls(config, optimization)
