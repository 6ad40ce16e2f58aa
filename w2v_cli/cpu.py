"""How a process that computes on a CPU is set up for speed.

glibc returns large blocks of memory to the system at once, and the next update has to fetch them again, page by page:
in a step of wav2vec 2.0 BASE that took more time than its arithmetic (10 million page faults against a quarter of a
million).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import torch

_FEW_KERNELS = "64"
"""More than the shapes of one update. By default oneDNN and torch keep 1024 kernels each, every new number of frames
brings further ones of 0.3 MB, and these lie scattered between the large tensors, which then need ever more memory: 5.9
instead of 3.7 GB after 24 updates of wav2vec 2.0 BASE."""
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@contextlib.contextmanager
def speed_on(device: torch.device) -> Iterator[None]:
    """Within this context, let a CPU compute in the fastest way; do nothing for other devices.

    Convolutions of float32 are arranged as matrix products (`functional/strided_conv`), which rounds sums in another
    order; memory that is freed stays with the process, and few compiled kernels are kept, then and later.
    """
    if device.type != "cpu":
        yield
        return
    keep_freed_memory()
    # Read when the first kernel is made.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _FEW_KERNELS)
    os.environ.setdefault("LRU_CACHE_CAPACITY", _FEW_KERNELS)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next tensors; return whether the C library can do so.

    Meant for programs whose steps need the same memory again and again. Memory in use does not grow; what was in use
    at most stays with the process until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl and others have none, and need none
        return False
    # -1 is the largest threshold: never give back.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
