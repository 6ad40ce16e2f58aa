"""The original's dynamic loss scale for float16: half at an overflow, double after a window without one.

torch's own `GradScaler` counts differently (growth only after N clean steps since the last change, no tolerance,
no minimum at which training stops), so recorded runs could not be repeated with it.
"""

from __future__ import annotations

from w2v.config.sections import CommonConfig, OptimizationConfig
from w2v.errors import TrainingError

FACTOR = 2.0


class LossScaler:
    """Factor that lifts the loss, so that small gradients are not lost in float16.

    Args:
        initial: first scale (`--fp16-init-scale`).
        window: attempts without overflow before the scale doubles (`--fp16-scale-window`).
        tolerance: share of overflows since the last change that is borne (`--fp16-scale-tolerance`).
        threshold: the scale is never halved below this (`--threshold-loss-scale`).
        minimum: training stops when the scale would fall to this (`--min-loss-scale`).
    """

    def __init__(
        self,
        initial: float = 128.0,
        window: int = 2**14,
        tolerance: float = 0.0,
        threshold: float | None = None,
        minimum: float = 1e-4,
    ) -> None:
        self.scale = float(initial)
        self.window = window
        self.tolerance = tolerance
        self.threshold = threshold
        self.minimum = minimum
        self._attempt = 0
        self._last_overflow = -1
        self._last_change = -1
        self._overflows = 0

    def update(self, overflow: bool) -> None:
        """Count one attempt and change the scale if it is time.

        Raises:
            TrainingError: the scale would fall to the minimum; it is left as it was.
        """
        if overflow:
            self._shrink()
        # Counted from the last overflow, not from the last change: torch's scaler counts the other way.
        elif (self._attempt - self._last_overflow) % self.window == 0:
            self.scale *= FACTOR
            self._last_change = self._attempt
        self._attempt += 1

    def _shrink(self) -> None:
        # At least 1: an attempt comes after the change. With the default tolerance 0 every overflow halves.
        since_change = self._attempt - self._last_change
        self._last_overflow = self._attempt
        self._overflows += 1
        if self._overflows / since_change < self.tolerance:
            return
        smaller = max(self.scale / FACTOR, self.threshold or 0.0)
        if smaller <= self.minimum:
            raise TrainingError(
                f"the fp16 loss scale would fall from {self.scale:g} to --min-loss-scale {self.minimum:g}: the loss "
                "is probably exploding; lower --lr, lengthen the warm-up, set --clip-norm, or use --bf16"
            )
        self.scale = smaller
        self._last_change = self._attempt
        self._overflows = 0

    def state_dict(self) -> dict[str, float]:
        """Return the scale and the counters."""
        return {
            "scale": self.scale,
            "attempt": self._attempt,
            "last_overflow": self._last_overflow,
            "last_change": self._last_change,
            "overflows": self._overflows,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over a saved scale and its counters."""
        self.scale = float(state["scale"])
        self._attempt = int(state["attempt"])
        self._last_overflow = int(state["last_overflow"])
        self._last_change = int(state["last_change"])
        self._overflows = int(state["overflows"])


def build_loss_scaler(common: CommonConfig, optimization: OptimizationConfig, world_size: int) -> LossScaler | None:
    """Build the scaler for `--fp16`; its window counts about the same amount of data at any batch size."""
    if not (common.fp16 or common.memory_efficient_fp16):
        return None
    # The first --update-freq, as in the original, also where there is a list of them.
    window = common.fp16_scale_window or int(2**14 / world_size / optimization.update_freq[0])
    return LossScaler(
        common.fp16_init_scale,
        max(window, 1),
        common.fp16_scale_tolerance,
        common.threshold_loss_scale,
        common.min_loss_scale,
    )
