"""An encoder that is not trained during the first updates (`--freeze-finetune-updates`)."""

from __future__ import annotations

from torch import nn


class Freezing:
    """Freezes a module until an update, and then sets free what it froze itself and nothing else.

    A user's own `requires_grad_(False)`, before or after, is left as it is.

    Attributes:
        is_on: whether the module is frozen now.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._names: frozenset[str] = frozenset()

    def until(self, end: int, num_updates: int, module: nn.Module) -> None:
        """Freeze `module` before update `end`, and end that once, when `num_updates` reaches it."""
        if self.is_on == (num_updates < end):
            return
        self.is_on = num_updates < end
        parameters = dict(module.named_parameters())
        if self.is_on:
            self._names = frozenset(name for name, parameter in parameters.items() if parameter.requires_grad)
        for name in self._names & parameters.keys():
            parameters[name].requires_grad_(not self.is_on)
