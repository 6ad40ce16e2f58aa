"""What one update reports of itself, and what becomes of updates that went wrong.

All numbers of an update travel in one tensor: it is added up over ranks in one collective, and copied to the host in
one go, one update later. Requests to stop travel in it too, so that all ranks see them after the same update.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from w2v.distributed import gather_objects, is_master, sum_across_ranks
from w2v.errors import TrainingError, listed
from w2v.optim.gradients import DelayedRead
from w2v.optim.loss_scaler import LossScaler
from w2v.training.metrics import Totals
from w2v.types import Batch, Loss

logger = logging.getLogger(__name__)

MAX_SKIPS_IN_A_ROW = 20
MAX_NAMED_CLIPS = 20


@dataclass(frozen=True)
class Outcome:
    """An update as the host sees it; all sums are over micro-batches and ranks.

    Attributes:
        sample_size: terms of the loss.
        loss: summed loss.
        clips: number of clips.
        tokens: padded samples.
        signal: ranks that were asked by a signal to stop.
        time_up: ranks whose time is over.
        norm: norm of the gradient per term of the loss, before clipping.
        skipped: 1 if the update changed nothing.
    """

    sample_size: float
    loss: float
    clips: float
    tokens: float
    signal: float
    time_up: float
    norm: float
    skipped: float


class UpdateReport:
    """Gathers an update's numbers on the device.

    Attributes:
        sums: what the criterion reported on this rank.
        sample_size: scalar tensor, over all ranks after `close`.
        seconds: wall time that the update took to queue.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = Totals(device)
        self.seconds = 0.0
        # (6,): sample size, loss, clips, tokens, signals, times up. float64, because a float32 sum of samples loses
        # single ones beyond 2**24. One tensor, so that ranks need one collective and the host one copy per update.
        self._totals = torch.zeros(6, dtype=torch.float64, device=device)
        self._clips: list[tuple[Tensor, Tensor]] = []
        self._read: DelayedRead | None = None

    @property
    def sample_size(self) -> Tensor:
        return self._totals[0]

    def add(self, batch: Batch, loss: Loss) -> None:
        """Count one micro-batch."""
        value = loss.value.detach()
        for place, number in enumerate((loss.sample_size, value, batch.num_items, batch.num_tokens)):
            self._totals[place].add_(number)  # a tensor or a number: neither is waited for
        self.sums.add(loss.sums)
        self._clips.append((batch.indices, value))

    def close(self, *, signal: bool, time_up: bool) -> None:
        """Add up over ranks, with this rank's wishes to stop."""
        # A wish to stop travels with the numbers: all ranks read it after the same update, and stop together.
        self._totals[4].add_(float(signal))
        self._totals[5].add_(float(time_up))
        sum_across_ranks(self._totals)

    def judge(self, norm: Tensor) -> Tensor:
        """Return 1 (scalar float32 tensor) if the update must be skipped, else 0, and send the numbers to the host.

        Args:
            norm: norm of the scaled gradient, equal on all ranks.
        """
        # All on the device, and equal on all ranks: the norm is one over all ranks, and so are the totals.
        good = norm.isfinite() & self._totals[1].isfinite() & (self.sample_size > 0)
        skip = (~good).float()
        # (8,): queued behind the step, read by the host when the next update is under way.
        self._read = DelayedRead(torch.cat([self._totals, torch.stack([norm, skip])]))
        return skip

    def outcome(self) -> Outcome:
        """Wait for the numbers."""
        if self._read is None:
            raise RuntimeError("outcome before judge")
        return Outcome(*self._read.read())

    def named_clips(self) -> str:
        """Name the clips of micro-batches with a bad loss, or else all; every process must call this."""
        ours = [(rows.tolist(), not math.isfinite(float(loss))) for rows, loss in self._clips]
        # Slow, with a collective and a wait for the device; only where an update has gone wrong.
        every = list(itertools.chain.from_iterable(gather_objects(ours)))
        chosen = [rows for rows, is_bad in every if is_bad] or [rows for rows, _ in every]
        numbers = sorted(itertools.chain.from_iterable(chosen))
        return f"{listed(numbers, MAX_NAMED_CLIPS)} (numbers in the training set, from 0)"


class SkipCounter:
    """Counts skipped updates, explains changes of the loss scale, and ends training when nothing else happens.

    Attributes:
        total: updates skipped so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._in_a_row = 0

    def note(self, report: UpdateReport, outcome: Outcome, num_updates: int, scaler: LossScaler | None) -> None:
        """Take note of an update, change the loss scale if there is one, and log a skip; every process must call this.

        Raises:
            TrainingError: too many updates in a row were skipped, or the loss scale has fallen to its minimum.
        """
        if not outcome.skipped:
            self._in_a_row = 0
        else:
            self.total += 1
            self._in_a_row += 1
        if scaler is not None and outcome.sample_size > 0:
            self._rescale(scaler, report, outcome, num_updates)
        elif outcome.skipped:
            self._complain(report, outcome, num_updates)

    def _rescale(self, scaler: LossScaler, report: UpdateReport, outcome: Outcome, num_updates: int) -> None:
        before = scaler.scale
        try:
            scaler.update(bool(outcome.skipped))
        except TrainingError as e:
            raise TrainingError(f"{e}; the last update had clips {report.named_clips()}") from e
        now = scaler.scale
        if now > before:
            text = "loss scale %g -> %g (normal: no overflow in the last %d updates)"
            logger.info(text, before, now, scaler.window)
        if not outcome.skipped:
            return
        # A smaller scale cures gradients, not losses; and where it does not fall any further, it cures nothing.
        if math.isfinite(outcome.loss) and now < before:
            self._in_a_row = 0
            text = "gradient overflow, update skipped, loss scale %g -> %g (normal while it adapts; skipped so far: %d)"
            logger.info(text, before, now, self.total)
        else:
            self._complain(report, outcome, num_updates, f", loss scale {before:g} -> {now:g}")

    def _complain(self, report: UpdateReport, outcome: Outcome, num_updates: int, scale: str = "") -> None:
        what = f"loss {outcome.loss:g}, gradient norm {outcome.norm:g}" if outcome.sample_size else "no targets"
        where = f"after update {num_updates}: {what}{scale} in clips {report.named_clips()}"
        if is_master():
            logger.warning("update skipped %s; skipped so far: %d", where, self.total)
        if self._in_a_row >= MAX_SKIPS_IN_A_ROW:
            raise TrainingError(
                f"{self._in_a_row} updates in a row were skipped, the last one {where}; look at these clips, or lower "
                "--lr, lengthen the warm-up or set --clip-norm; the checkpoints hold good weights"
            )

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"total": self.total, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take over saved counts."""
        self.total, self._in_a_row = state["total"], state["in_a_row"]
