"""Lengths as people read them: a small set is told from an empty one."""

from __future__ import annotations

import pytest

from w2v.data.audio_time import audio_time


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 seconds"), (0.5, "0.5 seconds"), (59.9, "59.9 seconds"), (60, "1.0 minutes"), (3599, "60.0 minutes"),
     (3600, "1.00 hours"), (960 * 3600, "960.00 hours")],
)  # fmt: skip
def test_units(seconds, said):
    assert audio_time(seconds) == said
