"""Memory that tensors give back stays with the process: a second round of the same tensors touches no new page."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from w2v.allocator import keep_freed_memory

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
