"""Memory that tensors give back stays with the process; precision is put back after a run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from w2v_cli.cpu import speed_on

PROGRAM = """
import resource, torch
from w2v_cli.cpu import keep_freed_memory

torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(20_000_000) for _ in range(2)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = [faults() for _ in range(12)][-1]
kept = keep_freed_memory()
print(kept, usual, [faults() for _ in range(12)][-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_second_round_of_tensors_needs_no_new_pages() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
    if answer[0] == "False":
        pytest.skip("this C library has no mallopt")
    usual, kept = int(answer[1]), int(answer[2])
    assert kept < 100 < usual


def test_speed_lasts_as_long_as_its_context() -> None:
    before = torch.get_float32_matmul_precision()
    with speed_on(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with speed_on(torch.device("meta")):
        assert torch.get_float32_matmul_precision() == before


KERNELS = """
import ctypes, sys, torch
from w2v_cli.cpu import speed_on

class Use(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a b c d e f g used free keep".split()]

in_use = getattr(ctypes.CDLL(None), "mallinfo2", None)
if in_use is None:
    sys.exit(print("none"))
in_use.restype = Use
torch.set_num_threads(1)
if sys.argv[1] == "limited":
    context = speed_on(torch.device("cpu"))
    context.__enter__()
weight, before = torch.randn(64, 64, dtype=torch.bfloat16), in_use().used
for rows in range(1, 300):
    torch.randn(rows, 64, dtype=torch.bfloat16) @ weight
print(in_use().used - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_few_kernels_are_kept_for_the_shapes_of_other_batches() -> None:
    limits = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in limits}
    used = [
        subprocess.run(
            [sys.executable, "-c", KERNELS, how], capture_output=True, text=True, check=True, env=environment
        ).stdout.strip()
        for how in ("as usual", "limited")
    ]
    if "none" in used:
        pytest.skip("this C library does not tell what is in use")
    usual, limited = map(int, used)
    if usual < 10_000_000:
        pytest.skip("kernels take no room on this machine")
    assert limited < 0.5 * usual
