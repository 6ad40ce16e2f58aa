"""Signals are noted, a second Ctrl-C leaves at once, and handlers are put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from w2v.system import ENDING_SIGNALS
from w2v.training.signals import Interrupt


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert interrupt.received is None
        os.kill(os.getpid(), number)
        assert interrupt.received == number
    assert signal.getsignal(number) is before


STUCK = """
import ctypes, signal
from w2v.training.signals import Interrupt
with Interrupt():
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).sleep(60)  # C code: python's own handlers wait until it returns
"""


def test_the_second_ctrl_c_leaves_at_once_even_out_of_c_code() -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    child = subprocess.Popen([sys.executable, "-c", STUCK], env=environ, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGINT)  # wakes the sleeper up; noted
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    child.send_signal(signal.SIGINT)
    assert child.wait(2) == -signal.SIGINT


def test_lines_that_nobody_reads_any_more_are_left_out_in_silence() -> None:
    """As after `w2v-train ... | head`, or when the terminal is gone: no traceback for each of them."""
    code = (
        "import logging, sys\nfrom w2v_cli.progress import set_up_logging\nset_up_logging(is_master=True)\n"
        "for n in range(3000): logging.getLogger('train').info('line %d', n)\nsys.stderr.write('done')\n"
        "import os; os._exit(0)"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().endswith("line 0\n")
        child.stdout.close()
        assert child.stderr.read() == "done"
