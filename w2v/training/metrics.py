"""Sums that become logged values: added up on the device, read only when a line is written.

What a criterion reports can be added over micro-batches, ranks and updates (`Loss.sums`); ratios are taken once, at
the end. A line about the last N updates and a line about the epoch are two windows on the same running totals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from w2v.distributed import sum_dicts_across_ranks
from w2v.types import Value

# Digits after the point, as the original rounds them; other values are shown with six significant digits.
DIGITS = {
    "loss": 3, "nll_loss": 3, "ppl": 2, "prob_perplexity": 3, "code_perplexity": 3, "temp": 3, "accuracy": 5,
    "uer": 3, "wer": 3, "raw_wer": 3, "wps": 1, "ups": 2, "wpb": 1, "bsz": 1, "gnorm": 3, "clip": 1,
    "loss_scale": 4, "train_wall": 0, "wall": 0,
}  # fmt: skip


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Round values as the original does before it prints or compares them."""
    return {name: round(value, DIGITS[name]) if name in DIGITS else value for name, value in values.items()}


class Totals:
    """Named sums. Adding costs one small kernel per tensor; nothing waits for the device until `values`.

    Args:
        device: where the tensors live.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._numbers: dict[str, float] = {}
        self._tensors: dict[str, Tensor] = {}

    def add(self, sums: Mapping[str, Value]) -> None:
        """Add numbers or scalar tensors by name."""
        for name, value in sums.items():
            # The order of first appearance is the order of the log line, so both kinds are entered here.
            self._numbers.setdefault(name, 0.0)
            if isinstance(value, Tensor):
                if name not in self._tensors:
                    # float64: a float32 sum of token counts stops growing after 2**24.
                    self._tensors[name] = torch.zeros((), dtype=torch.float64, device=self._device)
                self._tensors[name].add_(value.detach())
            else:
                self._numbers[name] += value

    def merge(self, other: Totals) -> None:
        """Add the sums of `other`, without waiting for them."""
        self.add(other._numbers)
        self.add(other._tensors)

    def values(self) -> dict[str, float]:
        """Return the sums of this process; waits for the device once."""
        totals = dict(self._numbers)
        if self._tensors:
            # One copy for all sums: each `.item()` by itself would wait for the device again.
            read = torch.stack(list(self._tensors.values())).tolist()
            for name, value in zip(self._tensors, read, strict=True):
                totals[name] += value
        return totals


@dataclass
class Window:
    """Where a stretch of updates began: running totals at its first update.

    Attributes:
        sums: totals of the criterion, over all ranks.
        steps: totals of the trainer, over all ranks, with `seconds` of wall time.
    """

    sums: dict[str, float]
    steps: dict[str, float]

    def since(self, now: Window) -> Window:
        """Return what has been added between here and `now`."""
        return Window(_difference(now.sums, self.sums), _difference(now.steps, self.steps))

    def average(self, name: str) -> float:
        """Return the average over updates of something that the trainer has added up."""
        return self.steps.get(name, 0.0) / max(self.steps["updates"], 1.0)

    def plain(self) -> dict[str, Any]:
        """Return the window as a checkpoint holds it."""
        return {"sums": self.sums, "steps": self.steps}


def _difference(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in now.items()}


def speed(window: Window) -> dict[str, float]:
    """Return the original's `wps`, `ups`, `wpb`, `bsz`: tokens and updates per second, tokens and clips per update."""
    steps = window.steps
    seconds, updates = max(steps["seconds"], 1e-9), max(steps["updates"], 1.0)
    # The original's "words" are samples for audio, words for text; a criterion without a count of tokens has its
    # sample size.
    tokens = window.sums.get("ntokens", window.sums.get("sample_size", steps.get("sample_size", 0.0)))
    return {
        "wps": tokens / seconds,
        "ups": steps["updates"] / seconds,
        "wpb": tokens / updates,
        "bsz": steps.get("clips", 0.0) / updates,
    }


def averaged_counts(values: Mapping[str, float], window: Window) -> dict[str, float]:
    """Return `values` with `ntokens` and `nsentences` as averages per update, as the original logs them."""
    updates = max(window.steps["updates"], 1.0)
    return {
        name: window.sums[name] / updates if name in ("ntokens", "nsentences") and name in window.sums else value
        for name, value in values.items()
    }


def outlook(window: Window, *, updates_left: int | None, sample_rate: int | None) -> dict[str, float]:
    """Return what the original does not log.

    `audio_s`: seconds of audio per second; `eta`: seconds left; `data_wait`: share of the time in which the first rank
    waited for its batches, from 0 to 1.
    """
    steps = window.steps
    seconds, values = max(steps["seconds"], 1e-9), {}
    if sample_rate:
        values["audio_s"] = float(f"{steps.get('tokens', 0.0) / sample_rate / seconds:.4g}")
    # The pace of this window alone: it is that of this start and these ranks, not of an earlier machine.
    if updates_left is not None and steps["updates"]:
        values["eta"] = round(max(updates_left, 0) * seconds / steps["updates"])
    values["data_wait"] = round(min(steps.get("data_wait", 0.0) / seconds, 1.0), 4)
    return values


class TrainingMeter:
    """Running totals of a run, and the beginnings of its two windows.

    Args:
        device: where the criterion's tensors live.
    """

    WINDOWS = ("train_inner", "train")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._totals = Totals(device)
        self._steps = {"updates": 0.0}
        self._begin = time.perf_counter()  # not `time.time`, which an administrator may set back
        self._windows = {name: Window({}, {}) for name in self.WINDOWS}

    @property
    def seconds(self) -> float:
        """Wall time over all starts of the run."""
        return time.perf_counter() - self._begin

    def add_sums(self, totals: Totals) -> None:
        """Add what the criterion reported on this rank about one update."""
        self._totals.merge(totals)

    def add_step(self, **values: float) -> None:
        """Add what the trainer knows of one update, equal on all ranks."""
        for name, value in values.items():
            self._steps[name] = self._steps.get(name, 0.0) + value

    def collect(self) -> Window:
        """Return the running totals over all ranks; every process must call this."""
        sums = sum_dicts_across_ranks(self._totals.values())
        return Window(sums, {**self._steps, "seconds": self.seconds})

    def turn(self, name: str) -> Window:
        """Return what has been added since `name` began, and begin it anew; every process must call this."""
        now = self.collect()
        window, self._windows[name] = self._windows[name].since(now), now
        return window

    def state_dict(self) -> dict[str, Any]:
        """Return totals and windows; every process must call this."""
        return {"now": self.collect().plain()} | {name: window.plain() for name, window in self._windows.items()}

    def load_state_dict(self, state: Mapping[str, Any], *, is_master: bool) -> None:
        """Take over saved totals; the criterion's sums are given to the master alone, so that they count once."""
        self._totals = Totals(self._device)
        # Zeros elsewhere keep the order of names, which is that of the log line.
        self._totals.add(state["now"]["sums"] if is_master else dict.fromkeys(state["now"]["sums"], 0.0))
        self._steps = {name: value for name, value in state["now"]["steps"].items() if name != "seconds"}
        # As if this process had run all the time; the time between two starts does not count.
        self._begin = time.perf_counter() - state["now"]["steps"]["seconds"]
        self._windows = {name: Window(dict(state[name]["sums"]), dict(state[name]["steps"])) for name in self.WINDOWS}
