"""Cuts of long recordings: no speech is lost or doubled, lengths hold, and pauses decide."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2v.data.cuts import ClipLimits, plan_clips
from w2v.errors import ConfigError

LIMITS = ClipLimits(shortest=100, longest=300, least=20, pause=50, margin=5)


def middle(start: int, end: int) -> int:
    return (start + end) // 2


def clips(speech, total=10_000, limits=LIMITS, quietest=middle):
    return plan_clips(speech, total, limits, quietest)


def test_nothing_to_cut():
    assert clips([]) == []
    assert clips([(0, 50)], 50) == [(0, 50)]


def test_a_clip_ends_at_its_longest_pause():
    # Lengths of 110, 160 and 210 would all do; the pause after the second stretch is the longest.
    speech = [(10, 120), (130, 170), (210, 270), (275, 400)]
    assert clips(speech) == [(5, 175), (205, 405)]


def test_a_pause_beyond_the_limit_always_ends_a_clip():
    assert clips([(10, 40), (200, 230)]) == [(5, 45), (195, 235)]


def test_short_pauses_are_shared():
    assert clips([(100, 250), (254, 500)]) == [(95, 252), (252, 505)]


def test_one_long_stretch_is_cut_at_its_quietest_places():
    asked = []

    def quietest(start, end):
        asked.append((start, end))
        return start + 7

    found = clips([(0, 700)], 700, quietest=quietest)
    assert found[0][0] == 0
    assert found[-1][1] == 700
    assert len(found) == 3
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert [clip[1] for clip in found[:-1]] == [start + 7 for start, _ in asked]


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(1, 900)), max_size=40),
    st.integers(0, 80),
    st.integers(0, 10_000),
)
def test_speech_is_covered_once_and_lengths_hold(steps, tail, seed):
    speech, place = [], 0
    for pause, length in steps:
        place += pause + (1 if speech else 0)
        speech.append((place, place + length))
        place += length
    found = clips(speech, place + tail, quietest=lambda start, end: start + seed % max(end - start, 1))
    assert all(0 < end - start <= LIMITS.longest for start, end in found)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))
    covered = [sample for start, end in found for sample in range(start, end)]
    assert set(covered) >= {sample for start, end in speech for sample in range(start, end)}
    assert not found or (found[0][0] >= 0 and found[-1][1] <= place + tail)


@pytest.mark.parametrize("name", ["shortest", "longest"])
def test_lengths_must_be_positive(name):
    with pytest.raises(ConfigError):
        replace(LIMITS, **{name: 0})
