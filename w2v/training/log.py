"""The log of a training run: averages over updates, as lines and as an epoch's summary, and an eye on collapse.

What a line looks like is `progress`'s; sums and windows are `metrics`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from w2v import distributed
from w2v.config.sections import CommonConfig, OptimizationConfig
from w2v.criterions.base import Criterion
from w2v.tasks.sources import source_values
from w2v.training.collapse import CollapseMonitor
from w2v.training.metrics import TrainingMeter, Window, averaged_counts, outlook, rounded, speed
from w2v.training.progress import build_progress
from w2v.training.update_report import Outcome, UpdateReport


class TrainingLog:
    """Adds up updates and reports on them; every process must call its methods, the master alone writes.

    Args:
        criterion: turns sums into values.
        common: `--log-format`, `--on-collapse`.
        optimization: `--clip-norm`, and the limits from which the time left is guessed.
        device: where the criterion's sums live.
        codebook: groups and codewords per group of the model's quantizer; (0, 0) without one.
        sample_rate: samples per second, if batches hold audio.
        config: the configuration by section, as plain data, for trackers.

    Attributes:
        progress: where lines go.
        meter: the sums.
    """

    def __init__(
        self,
        criterion: Criterion,
        common: CommonConfig,
        optimization: OptimizationConfig,
        device: torch.device,
        codebook: tuple[int, int],
        sample_rate: int | None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.progress = build_progress(common, is_master=distributed.is_master(), config=config)
        self.meter = TrainingMeter(device)
        self._criterion = criterion
        self._limits = optimization
        self._sample_rate = sample_rate
        self._collapse = CollapseMonitor(codebook, stop=common.on_collapse == "stop")

    def add_wait(self, seconds: float) -> None:
        """Add the time that this rank waited for the batches of an update."""
        self.meter.add_step(data_wait=seconds)

    def add(self, report: UpdateReport, outcome: Outcome) -> None:
        """Add an update that was not skipped."""
        # The share of updates that were clipped, in percent, is the average of this.
        clipped = 100.0 * (0 < self._limits.clip_norm < outcome.norm)
        self.meter.add_sums(report.sums)
        self.meter.add_step(
            updates=1, loss=outcome.loss, sample_size=outcome.sample_size, clips=outcome.clips, tokens=outcome.tokens,
            gnorm=outcome.norm, clip=clipped, train_wall=report.seconds,
        )  # fmt: skip

    def updates(self, epoch: int, done: int, size: int, state: Mapping[str, float]) -> None:
        """Report on the updates since the last report.

        Args:
            epoch: the epoch, from 1.
            done: updates done in this epoch.
            size: updates of this epoch.
            state: `num_updates`, `lr` and, under `--fp16`, `loss_scale`.

        Raises:
            TrainingError: the model has collapsed, under `--on-collapse stop`.
        """
        window = self.meter.turn("train_inner")  # a collective, and the one wait for the device between two lines
        limits = self._limits
        # Whichever limit comes first; the rest of an epoch counts with as many updates as this one has.
        left = [limits.max_update - state["num_updates"]] if limits.max_update else []
        left += [(limits.max_epoch - epoch) * size + size - done] if limits.max_epoch else []
        updates_left = int(min(left)) if left else None
        extra = outlook(window, updates_left=updates_left, sample_rate=self._sample_rate)
        values = self._values(window, state)
        self.progress.log_update(epoch, done, size, values, extra)
        self._collapse.look_at(values)

    def epoch(self, epoch: int, state: Mapping[str, float]) -> None:
        """Report on the updates since the last call, or since the last start in this epoch's middle."""
        values = self._values(self.meter.turn("train"), state)
        self.progress.log_summary("train", epoch, {f"train_{name}": value for name, value in values.items()})

    def _values(self, window: Window, state: Mapping[str, float]) -> dict[str, float]:
        """Return what a training line shows, in the order of the original."""
        sums, steps = window.sums, window.steps
        # The trainer's own sums come first; a criterion that reports a `loss` of its own overrides them.
        loss = {"loss": steps.get("loss", 0.0), "sample_size": steps.get("sample_size", 0.0)}
        values = averaged_counts(self._criterion.summarize({**loss, **sums}), window) if steps["updates"] else {}
        values |= source_values(sums)
        values |= {**speed(window), "num_updates": state["num_updates"], "lr": state["lr"]}
        values["gnorm"] = window.average("gnorm")
        if self._limits.clip_norm > 0:
            values["clip"] = window.average("clip")
        if "loss_scale" in state:
            values["loss_scale"] = state["loss_scale"]
        values |= {"train_wall": steps.get("train_wall", 0.0), "wall": self.meter.seconds}
        return rounded(values)

    def close(self) -> None:
        """End the bar, and write out what trackers hold."""
        self.progress.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and what the eye on collapse has seen."""
        return {**self.meter.state_dict(), "collapse": self._collapse.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], *, new_epoch: bool) -> None:
        """Take over saved sums.

        Args:
            state: what `state_dict` returned.
            new_epoch: it was saved at the end of an epoch, whose sums are done with.
        """
        self.meter.load_state_dict(state, is_master=distributed.is_master())
        if "collapse" in state:
            self._collapse.load_state_dict(state["collapse"])
        if new_epoch:
            self.meter.turn("train")  # the epoch's window begins here, as it did in the start that ended the epoch
