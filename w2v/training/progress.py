"""Lines and bars of a run: `--log-format json|simple|tqdm|none`, and what trackers are told.

The lines are the original's: `date | INFO | tag | {...}`, where all numbers are strings save `epoch` and `update`.
What the original does not have (audio-seconds per second, time left, wait for data) comes after its values.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w2v.config.sections import CommonConfig
from w2v.errors import MissingPackageError
from w2v.training.trackers import Experiment, TensorBoard, Tracker

BAR_KEYS = ("loss", "wer", "uer", "accuracy", "lr", "gnorm", "loss_scale")
Shown = Mapping[str, float]


def shown(value: float) -> str:
    """Return a number as the original prints it: six significant digits, no trailing zeros."""
    return f"{value:g}"


def duration(seconds: float) -> str:
    """Return `2d 03:04:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour:02d}:{minute:02d}:{second:02d}"


class Progress:
    """What a run shows; this class shows nothing (`none`, and every process but the master)."""

    def begin_start(self, start: int, num_updates: int) -> None:
        """Begin start `start` of the run, with `num_updates` updates done: what was said of later ones is void."""

    def begin_epoch(self, epoch: int, num_updates: int, done: int) -> None:
        """Begin an epoch of `num_updates` updates, of which `done` are behind us."""

    def advance(self) -> None:
        """One more update is done."""

    def log_update(self, epoch: int, done: int, num_updates: int, values: Shown, extra: Shown) -> None:
        """Report on the updates since the last call.

        Args:
            epoch: counted from 1.
            done: updates done in this epoch.
            num_updates: updates of this epoch.
            values: what every format shows, rounded.
            extra: `audio_s` (seconds of audio per second), `eta` (seconds left) and `data_wait` (share of the time).
        """

    def log_summary(self, tag: str, epoch: int, values: Shown) -> None:
        """Report on an epoch (tag `train`) or on a validation (tag: name of the subset); names carry a prefix."""

    def close(self) -> None:
        """End the bar and write out the events."""


class JsonProgress(Progress):
    """One JSON object per line; `start` tells the starts of a run apart, of which later ones may repeat updates."""

    def __init__(self) -> None:
        self._start: dict[str, str] = {}

    def begin_start(self, start: int, num_updates: int) -> None:
        """Remember the number of the start."""
        self._start = {"start": str(start)}

    def log_update(self, epoch: int, done: int, num_updates: int, values: Shown, extra: Shown) -> None:
        """Write a `train_inner` line."""
        # As in the original: epochs done, with the share of the current one; the only numbers that are no text.
        update = round(epoch - 1 + done / max(num_updates, 1), 3)
        self._write("train_inner", {"epoch": epoch, "update": update}, {**values, **extra})

    def log_summary(self, tag: str, epoch: int, values: Shown) -> None:
        """Write a line for an epoch or a validation."""
        self._write(tag, {"epoch": epoch}, values)

    def _write(self, tag: str, head: dict[str, Any], values: Shown) -> None:
        texts = {name: shown(value) for name, value in values.items()}
        logging.getLogger(tag).info(json.dumps(head | texts | self._start))


class SimpleProgress(Progress):
    """One line of text per report."""

    def log_update(self, epoch: int, done: int, num_updates: int, values: Shown, extra: Shown) -> None:
        """Write a `train_inner` line."""
        text = ", ".join(f"{name}={shown(value)}" for name, value in values.items())
        logging.getLogger("train_inner").info(f"epoch {epoch:03d}:  {done:5d} / {num_updates:d} {text}")

    def log_summary(self, tag: str, epoch: int, values: Shown) -> None:
        """Write a line for an epoch or a validation."""
        text = " | ".join(f"{name} {shown(value)}" for name, value in values.items())
        logging.getLogger(tag).info(f"epoch {epoch:03d} | {text}")


class TqdmProgress(SimpleProgress):
    """A bar on the terminal, with loss, word error rate, audio per second and time left; lines for summaries."""

    def __init__(self) -> None:
        try:
            from tqdm import tqdm
        except ImportError as e:
            raise MissingPackageError("tqdm", "dev", "--log-format tqdm") from e
        self._make: Any = tqdm
        self._bar: Any = None
        self._summary: dict[str, float] = {}
        self._recent: dict[str, str] = {}

    def begin_epoch(self, epoch: int, num_updates: int, done: int) -> None:
        """Begin a bar."""
        self.close()
        self._bar = self._make(
            total=num_updates, initial=done, desc=f"epoch {epoch:03d}", leave=False, dynamic_ncols=True, unit="update"
        )
        self._show()

    def advance(self) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update()

    def log_update(self, epoch: int, done: int, num_updates: int, values: Shown, extra: Shown) -> None:
        """Renew the numbers on the bar."""
        self._recent = {name: shown(values[name]) for name in BAR_KEYS if name in values}
        if "audio_s" in extra:
            self._recent["audio"] = f"{extra['audio_s']:.3g}s/s"
        if "eta" in extra:
            self._recent["left"] = duration(extra["eta"])
        self._show()

    def log_summary(self, tag: str, epoch: int, values: Shown) -> None:
        """Write a line above the bar, and remember the error rates of validation for the bar."""
        if self._bar is not None:
            self._bar.clear()  # or the line would be written into the bar
        super().log_summary(tag, epoch, values)
        if tag != "train":
            prefix = f"{tag}_"
            plain = {name.removeprefix(prefix): value for name, value in values.items()}
            self._summary = {f"valid_{name}": plain[name] for name in ("loss", "wer") if name in plain}
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self) -> None:
        if self._bar is not None:
            numbers = {name: shown(value) for name, value in self._summary.items()}
            self._bar.set_postfix(self._recent | numbers, refresh=False)


class TrackedProgress(Progress):
    """Gives numbers to trackers, beside another way of showing them.

    Args:
        wrapped: what shows them.
        trackers: what keeps them.
    """

    def __init__(self, wrapped: Progress, trackers: Sequence[Tracker]) -> None:
        self._wrapped = wrapped
        self._trackers = trackers

    def begin_start(self, start: int, num_updates: int) -> None:
        """Tell the trackers and pass on."""
        for tracker in self._trackers:
            tracker.begin_start(start, num_updates)
        self._wrapped.begin_start(start, num_updates)

    def begin_epoch(self, epoch: int, num_updates: int, done: int) -> None:
        """Pass on."""
        self._wrapped.begin_epoch(epoch, num_updates, done)

    def advance(self) -> None:
        """Pass on."""
        self._wrapped.advance()

    def log_update(self, epoch: int, done: int, num_updates: int, values: Shown, extra: Shown) -> None:
        """Tell the trackers and pass on."""
        self._write("train_inner", {**values, **extra}, "")
        self._wrapped.log_update(epoch, done, num_updates, values, extra)

    def log_summary(self, tag: str, epoch: int, values: Shown) -> None:
        """Tell the trackers and pass on."""
        self._write(tag, values, f"{tag}_")
        self._wrapped.log_summary(tag, epoch, values)

    def close(self) -> None:
        """Close the trackers and pass on."""
        for tracker in self._trackers:
            tracker.close()
        self._wrapped.close()

    def _write(self, tag: str, values: Shown, prefix: str) -> None:
        plain = {name.removeprefix(prefix): value for name, value in values.items()}
        step = int(plain.pop("num_updates"))
        for tracker in self._trackers:
            tracker.write(tag, step, plain)


def build_progress(
    common: CommonConfig, *, is_master: bool, config: Mapping[str, Mapping[str, Any]] | None = None
) -> Progress:
    """Return what `--log-format`, `--no-progress-bar`, `--tensorboard-logdir` and `--wandb-project` ask for.

    Args:
        common: the flags.
        is_master: whether this process shows anything.
        config: the configuration by section, as plain data, for trackers.

    Raises:
        MissingPackageError: a package is asked for and not installed.
    """
    if not is_master:
        return Progress()
    terminal = sys.stderr.isatty()
    name = common.log_format or ("simple" if common.no_progress_bar else "tqdm" if terminal else "json")
    if name == "tqdm" and not terminal:
        name = "simple"  # as in the original: a bar makes no sense in a file
    formats: dict[str, type[Progress]] = {
        "json": JsonProgress, "simple": SimpleProgress, "tqdm": TqdmProgress, "none": Progress
    }  # fmt: skip
    progress = formats[name]()
    trackers: list[Tracker] = []
    if common.tensorboard_logdir:
        trackers.append(TensorBoard(Path(common.tensorboard_logdir)))
    if common.wandb_project:
        config = config or {}
        name = Path(str(config.get("checkpoint", {}).get("save_dir", "run"))).resolve().name
        trackers.append(Experiment(common.tracker, common.wandb_project, name, config))
    return TrackedProgress(progress, trackers) if trackers else progress
