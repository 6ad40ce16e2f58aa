"""Memory that one rank uses: on its GPU, or as a process with its worker processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


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
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical
