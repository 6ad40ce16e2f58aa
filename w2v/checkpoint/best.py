"""The best validation of a run, and the N best: which scores are kept, decided on numbers alone.

Scores are compared in full precision, as validation computed them; of two that are equal the earlier one stays. A score
that is no best may still be among the N best.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


class BestScores:
    """Remembers the best score and the N best.

    Args:
        metric: name of the score (`--best-checkpoint-metric`).
        maximize: larger is better (`--maximize-best-checkpoint-metric`).
        keep: how many of the best to keep (`--keep-best-checkpoints`); 0 or less: none.

    Attributes:
        best: best score so far, None before the first validation.
        best_update: number of updates at which it was found.
        kept: (score, update) of the N best, best first.
    """

    def __init__(self, metric: str, maximize: bool, keep: int) -> None:
        self._metric, self._maximize, self._keep = metric, maximize, max(keep, 0)
        self.best: float | None = None
        self.best_update: int | None = None
        self.kept: list[tuple[float, int]] = []

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether `score` beats `best`; anything beats None."""
        if best is None:
            return True
        return score > best if self._maximize else score < best

    def better_of(self, score: float | None, best: float) -> float:
        """Return the better of a new score, which may be missing, and an old one."""
        return score if score is not None and self.is_better(score, best) else best

    def note(self, score: float, update: int) -> tuple[bool, bool]:
        """Take note of a validation.

        Returns:
            whether it is the best so far, and whether it is among the N best.
        """
        is_best = self.is_better(score, self.best)
        if is_best:
            self.best, self.best_update = score, update
        others = [entry for entry in self.kept if entry[1] != update]
        ranked = sorted([*others, (score, update)], key=self._rank)
        self.kept = ranked[: self._keep]
        return is_best, (score, update) in self.kept

    def _rank(self, entry: tuple[float, int]) -> tuple[float, int]:
        score, update = entry
        return (-score if self._maximize else score), update

    def state_dict(self) -> dict[str, Any]:
        """Return scores and updates, with what they are scores of."""
        return {
            "metric": [self._metric, self._maximize],
            "best": self.best,
            "best_update": self.best_update,
            "kept": [list(entry) for entry in self.kept],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Take over saved scores; return False if they are scores of something else, which are left out."""
        saved = state.get("metric")
        if saved is not None and list(saved) != [self._metric, self._maximize]:
            logger.warning(
                "the checkpoint's best score is one of --best-checkpoint-metric %s%s; the best is looked for anew",
                saved[0], " (maximized)" if saved[1] else "",
            )  # fmt: skip
            return False
        self.best, self.best_update = state["best"], state.get("best_update")
        self.kept = [(float(score), int(update)) for score, update in state.get("kept", ())]
        return True
