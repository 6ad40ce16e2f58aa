"""Signals are noted, a second Ctrl-C leaves at once, and handlers are put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from w2v.training.signals import SIGNALS, Interrupt


@pytest.mark.parametrize("number", SIGNALS)
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
