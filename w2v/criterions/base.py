"""What every loss offers, and the registry that `--criterion` names are looked up in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from w2v.errors import ConfigError
from w2v.registry import Registry
from w2v.types import Loss


class Criterion(nn.Module):
    """Base class of losses: `forward(output, batch) -> Loss`.

    A criterion sees the model's output, never the model.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, output: Any, batch: Any) -> Loss:
        """Return the summed loss of one micro-batch."""
        raise NotImplementedError

    @staticmethod
    def expect(output: Any, kind: type, flags: str) -> None:
        """Check that the model is of the kind that the loss is for.

        Args:
            output: what the model returned.
            kind: what it should have returned.
            flags: loss and models that go together, for the message.

        Raises:
            ConfigError: it is something else.
        """
        if not isinstance(output, kind):
            raise ConfigError(f"{flags} (--arch), and this model returns a {type(output).__name__}")

    def value_names(self) -> frozenset[str] | None:
        """Return the names of the values that `summarize` gives, as far as that can be told beforehand; None: unknown.

        They are what `--best-checkpoint-metric` may name.
        """
        return None

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """Turn totals of `Loss.sums` into the values that are logged, in the order of the log line.

        `sums` holds the totals over micro-batches, ranks and updates, among them `loss` and `sample_size`, which
        the trainer adds for every criterion. The loss is given in bits per `sample_size`, as in the original.
        """
        # log 2 turns nats into bits, in which the original logs.
        return {"loss": sums["loss"] / max(sums["sample_size"], 1) / math.log(2)}


CRITERIONS: Registry[Criterion] = Registry("criterion", "--criterion", Criterion)
register_criterion = CRITERIONS.register
