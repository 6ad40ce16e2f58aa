"""`--dry-run`: times 20 updates and says what the whole run takes, in time and in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import re
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from w2v import distributed
from w2v.errors import ConfigError, DataError
from w2v.system import peak_memory, physical_memory
from w2v.training.progress import duration
from w2v.training.trainer import MicroBatches, Trainer
from w2v.types import Batch

logger = logging.getLogger(__name__)


class MemoryUse:
    """Watches memory from its making on.

    Args:
        device: where this rank trains.
        world_size: ranks that share the memory of a machine without GPUs.

    Attributes:
        size: bytes that there are for this rank.
        before: bytes in use at first.
    """

    def __init__(self, device: torch.device, world_size: int) -> None:
        self._device = device
        if device.type == "cuda":
            self.size = int(torch.cuda.get_device_properties(device).total_memory)
            self.before = int(torch.cuda.memory_allocated(device))
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self.size = _machine_memory() // world_size
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.before = _own("VmRSS")

    def peak(self) -> int:
        """Return the bytes in use at most: those of tensors on a GPU, or of the process and, now, of its workers."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return _own("VmHWM") + sum(map(_private, multiprocessing.active_children()))

    def has_failed(self) -> bool:
        """Whether a GPU's memory once did not suffice."""
        return self._device.type == "cuda" and bool(torch.cuda.memory_stats(self._device).get("num_ooms"))


def _own(field: str) -> int:
    """Return a field of this process' memory, in bytes; where there is no /proc, its peak."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return peak_memory() or 0
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def _private(worker: Any) -> int:
    """Return the memory in bytes that a worker shares with no other process."""
    try:
        text = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(map(int, re.findall(r"Private_\w+:\s+(\d+) kB", text))) * 1024


def _machine_memory() -> int:
    """Return the bytes of memory of this machine, or of the container that we are in."""
    physical = physical_memory()
    if physical is None:
        raise ConfigError("--dry-run: this system does not tell how much memory it has; train on without it")
    with suppress(OSError, ValueError):
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical


UPDATES = 20
WARM_UP = 3
PATIENCE = 300.0  # seconds for the timed updates; fewer are made where they take longer
HEADROOM = 0.9  # share of the memory that the suggestion uses


@dataclass(frozen=True)
class DryRun:
    """What was measured, and what follows from it.

    Attributes:
        updates: number of updates timed.
        seconds_per_update: wall time of one.
        audio_s: seconds of audio trained on per second, padding counted, over all ranks; None: it is no audio.
        data_wait: share of the time in which a rank waited for its next batch, from 0 to 1.
        updates_per_epoch: of the last `--update-freq`.
        updates_in_all: to the end of the run; None: it has no end.
        seconds_in_all: the time that they take, without validation and checkpoints.
        peak_memory: bytes at most, of one rank with its workers; with CUDA: those that tensors took on its GPU.
        memory: bytes that there are for one rank.
        padding: share of an epoch's samples that are padding; None: unknown.
        cropped: share of an epoch's audio that is cropped away; None: unknown.
        max_tokens: what `--max-tokens` could be; None: unknown.
    """

    updates: int
    seconds_per_update: float
    audio_s: float | None
    data_wait: float
    updates_per_epoch: int
    updates_in_all: int | None
    seconds_in_all: float | None
    peak_memory: int
    memory: int
    padding: float | None
    cropped: float | None
    max_tokens: int | None

    def plain(self) -> dict[str, Any]:
        """Return the fields by name, for a line of JSON; six digits of each."""
        fields = dataclasses.asdict(self)
        return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in fields.items()}

    def table(self) -> str:
        """Return lines for people."""
        end, rows = "no end: give --max-update or --max-epoch", []
        if self.updates_in_all is not None and self.seconds_in_all is not None:
            end = f"{duration(self.seconds_in_all)} for {self.updates_in_all} updates, without validation"
        if self.audio_s is not None:
            rows.append(("speed", f"{self.audio_s:.4g} seconds of audio per second, padding counted"))
        rows += [
            ("time per update", f"{self.seconds_per_update:.4g} s (mean of {self.updates})"),
            ("waiting for data", f"{self.data_wait:.1%} of the time"),
            ("updates per epoch", f"{self.updates_per_epoch}"),
            ("time to the end", end),
            ("peak memory", f"{self.peak_memory / 1e9:.2f} GB of {self.memory / 1e9:.1f} GB, largest batch"),
        ]
        if self.padding is not None and self.cropped is not None:
            rows.append(("padding", f"{self.padding:.2%} of the samples of an epoch's batches"))
            rows.append(("cropped away", f"{self.cropped:.2%} of an epoch's audio"))
        if self.max_tokens is not None:
            rows.append(("--max-tokens", f"{self.max_tokens} would use {HEADROOM:.0%} of the memory"))
        return "\n".join(f"{name:<18} {text}" for name, text in rows)


def dry_run(trainer: Trainer, sample_rate: int | None) -> DryRun:
    """Make some updates and return what a whole run would take; every rank must call this.

    Args:
        trainer: as built for the run; it is spent afterwards.
        sample_rate: samples per second, if batches hold audio.

    Raises:
        DataError: there is not a single batch.
    """
    trainer.settle_number_format()
    epochs = trainer.batches
    update_freq = trainer.optimization.update_freq[-1]
    total, per_epoch = updates_in_all(trainer), epochs.num_updates(update_freq)
    if not per_epoch:
        raise DataError("there is not a single batch to train on")
    trainer.num_updates = (total or 0) // 2  # frozen parts are trained by then, temperatures have fallen
    memory, waste = MemoryUse(trainer.device, distributed.world_size()), epochs.dataset.waste(epochs.batches)
    # Read here once, by the main process: workers give batches in the order of the epoch.
    largest = None if waste is None else epochs.dataset.batch(epochs.batches[waste.largest], 0)
    with contextlib.ExitStack() as stack:
        for part in (trainer.log, epochs):
            stack.callback(part.close)
        updates = stack.enter_context(contextlib.closing(_endless(trainer, update_freq)))
        count = _warm_up(trainer, updates, largest)
        logger.info("dry run: timing %d updates", count)
        seconds, waited, tokens = _timed(trainer, updates, count)
        # Ranks have different batches, so they agree on the worst.
        peaks = distributed.gather_objects(memory.peak())
        suggestion = None if largest is None else suggested_max_tokens(trainer, memory, largest.num_tokens)
    return DryRun(
        updates=count,
        seconds_per_update=seconds / count,
        audio_s=tokens / sample_rate / seconds if sample_rate else None,
        data_wait=waited / seconds,
        updates_per_epoch=per_epoch,
        updates_in_all=total,
        seconds_in_all=None if total is None else total * seconds / count,
        peak_memory=max(peaks),
        memory=min(distributed.gather_objects(memory.size)),
        padding=waste and waste.padding,
        cropped=waste and waste.cropped,
        max_tokens=None if suggestion is None else min(distributed.gather_objects(suggestion)),
    )


def suggested_max_tokens(trainer: Trainer, memory: MemoryUse, tokens: int) -> int:
    """Return the `--max-tokens` that would use `HEADROOM` of the memory, to two digits.

    What does not grow with a batch is what there was before the first update, the gradients and the state of the
    optimizer; all the rest is taken to be in proportion to the largest batch.

    Args:
        trainer: has made updates.
        memory: has watched them.
        tokens: samples of the largest batch, padding counted.
    """
    # float32 numbers per parameter: a gradient and, for Adam, two moments.
    held = [p.grad for p in trainer.optimizer.parameters if p.grad is not None]
    held += [value for entry in trainer.optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
    fixed = memory.before + sum(tensor.numel() * tensor.element_size() for tensor in held)
    found = (HEADROOM * memory.size - fixed) * tokens / max(memory.peak() - fixed, 1)
    if memory.has_failed():  # the largest batch went through in parts, so the peak says nothing about all of it
        found = min(found, tokens / 2)
    return int(float(f"{max(found, 0):.1e}"))  # two digits: more would pretend to know more


def updates_in_all(trainer: Trainer) -> int | None:
    """Return the number of updates to the first of `--max-update` and `--max-epoch`; None without either."""
    limits = trainer.optimization
    ends = [limits.max_update] if limits.max_update else []
    if limits.max_epoch:
        counts = [trainer.accumulation(epoch) for epoch in range(1, limits.max_epoch + 1)]
        ends.append(sum(trainer.batches.num_updates(count) for count in counts))
    return min(ends, default=None)


def _warm_up(trainer: Trainer, updates: Iterator[MicroBatches], largest: Batch | None) -> int:
    """Make updates that do not count, one of them with the largest batch; return how many there is time for."""
    seconds, _, _ = _timed(trainer, updates, 1)
    count: int = distributed.gather_objects(min(UPDATES, max(1, int(PATIENCE / seconds))))[0]
    if largest is not None:
        # Memory is used most by the second batch of an update: the gradients of the first one are there.
        trainer.train_step([(largest, True)] * min(2, trainer.optimization.update_freq[-1]))
    if count == UPDATES:
        _timed(trainer, updates, WARM_UP - 1)
    return count


def _endless(trainer: Trainer, update_freq: int) -> Generator[MicroBatches, None, None]:
    while True:
        yield from trainer.batches.updates(update_freq)
        trainer.batches.advance_epoch()


def _timed(trainer: Trainer, updates: Iterator[MicroBatches], count: int) -> tuple[float, float, float]:
    """Make updates; return seconds, seconds of waiting for data (mean of the ranks), and samples over all ranks."""
    waited, tokens = 0.0, 0
    distributed.barrier()  # ranks begin together, or the first would count its wait for the others
    begin = time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        micro_batches = next(updates)
        waited += time.perf_counter() - asked
        tokens += sum(batch.num_tokens for batch, counts in micro_batches if counts)
        trainer.train_step(micro_batches)
    if trainer.device.type == "cuda":  # the last updates are queued, not made: the clock must wait for them
        torch.cuda.synchronize(trainer.device)
    seconds = time.perf_counter() - begin
    sums = distributed.sum_dicts_across_ranks({"waited": waited, "tokens": tokens, "seconds": seconds})
    ranks = distributed.world_size()
    return sums["seconds"] / ranks, sums["waited"] / ranks, sums["tokens"]
