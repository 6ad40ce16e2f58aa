"""When to log, validate and save, and when patience is over: decisions on numbers alone.

As in the original, a checkpoint in the middle of an epoch comes with a validation, and so does the end of training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from w2v.config.sections import CheckpointConfig, CommonConfig, DatasetConfig


@dataclass(frozen=True)
class Plan:
    """What is to be done after an update."""

    log: bool
    validate: bool
    save: bool


class Cadence:
    """Intervals of log lines, validations and checkpoints; remembers what has been dealt with.

    Args:
        common, dataset, checkpoint: the root sections.
    """

    def __init__(self, common: CommonConfig, dataset: DatasetConfig, checkpoint: CheckpointConfig) -> None:
        self._log_every = common.log_interval
        self._dataset = dataset
        self._checkpoint = checkpoint
        # A skipped update leaves the number as it was, and what was due at that number must not be done twice.
        self._handled = -1

    def resume(self, num_updates: int) -> None:
        """Resume from a checkpoint, which was written after everything due at `num_updates` had been done."""
        self._handled = num_updates

    def is_due(self, num_updates: int) -> bool:
        """Whether something is to be done after `num_updates` in the middle of an epoch."""
        every = (self._log_every, self._dataset.validate_interval_updates, self._checkpoint.save_interval_updates)
        return num_updates != self._handled and any(_hits(num_updates, interval) for interval in every)

    def plan(self, num_updates: int, epoch: int, *, end_of_epoch: bool, stopping: bool) -> Plan:
        """Return what to do now, and take it as done."""
        # `new` is false when the update was skipped, and for a resumed run: what was due at this number is done.
        new, self._handled = num_updates != self._handled, num_updates
        save_by_updates = new and _hits(num_updates, self._checkpoint.save_interval_updates)
        save_by_epoch = end_of_epoch and epoch % self._checkpoint.save_interval == 0
        # The original leaves out what is due at an update where that is an epoch's last.
        validate = (
            save_by_updates
            or (end_of_epoch and epoch % self._dataset.validate_interval == 0)
            or (new and _hits(num_updates, self._dataset.validate_interval_updates))
            or stopping
        )
        # As in the later releases of the original, --validate-after-updates holds for every validation; at the README
        # commit it held only for those that come with --save-interval-updates.
        allowed = not self._dataset.disable_validation and num_updates >= self._dataset.validate_after_updates
        return Plan(
            log=new and _hits(num_updates, self._log_every),
            validate=validate and allowed,
            save=save_by_updates or save_by_epoch or stopping,
        )


def _hits(num_updates: int, interval: int) -> bool:
    return interval > 0 and num_updates > 0 and num_updates % interval == 0


class Patience:
    """Counts validations without improvement (`--patience`).

    Args:
        limit: validations without improvement after which training ends; 0 or less: never.
        is_better: whether the first score beats the second, which may be None.
    """

    def __init__(self, limit: int, is_better: Callable[[float, float | None], bool]) -> None:
        self._limit = limit
        self._is_better = is_better
        self._best: float | None = None
        self._runs = 0

    def note(self, score: float | None) -> str:
        """Take note of a validation's score (None: not a number); return the reason to stop, or an empty string."""
        if self._limit <= 0:
            return ""
        # A score that is no number counts as no improvement: a run that diverges ends.
        if score is not None and self._is_better(score, self._best):
            self._best, self._runs = score, 0
            return ""
        self._runs += 1
        return self.reason()

    def reason(self) -> str:
        """Return why training should end, or an empty string; so also for a run that has ended and is started again."""
        if self._limit <= 0 or self._runs < self._limit:
            return ""
        return f"{self._runs} validations without improvement (--patience {self._limit})"

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the count."""
        return {"best": self._best, "runs": self._runs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved count."""
        self._best, self._runs = state["best"], state["runs"]
