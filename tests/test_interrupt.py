"""Signals are noted, a second Ctrl-C leaves at once, and handlers are put back."""

from __future__ import annotations

import os
import signal

import pytest

from w2v.interrupt import SIGNALS, Interrupt


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert interrupt.received is None
        os.kill(os.getpid(), number)
        assert interrupt.received == number
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_leaves_at_once() -> None:
    with Interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
