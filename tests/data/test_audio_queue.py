"""The queue between a microphone and a model: nothing is lost without a count, and nothing grows."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2v.data.audio_queue import AudioQueue
from w2v.errors import ArgumentError, DataError

RATE = 100


@given(st.lists(st.one_of(st.integers(0, 400), st.none()), max_size=40))
def test_every_sample_comes_in_order_or_is_counted_where_it_is_missing(steps):
    """A number puts so many samples, None takes a block. Each sample is its own number."""
    queue = AudioQueue(RATE, 2.0)
    put = taken = 0

    def take():
        nonlocal taken
        piece = queue.get(0)
        if piece is not None:
            taken += piece.dropped
            np.testing.assert_array_equal(piece.samples, np.arange(taken, taken + len(piece.samples)))
            taken += len(piece.samples)

    for step in steps:
        if step is None:
            take()
        else:
            assert queue.put(np.arange(put, put + step, dtype=np.float32))
            put += step
        assert queue.seconds <= 2.0
    queue.close()
    while not queue.is_done:
        take()
    assert taken == put
    assert queue.drain() == 0


def test_a_writer_that_can_wait_waits_and_loses_nothing():
    queue = AudioQueue(RATE, 0.5, waits=True)
    blocks = [np.full(20, n, np.float32) for n in range(30)] + [np.zeros(500, np.float32)]

    def write():
        for block in blocks:
            assert queue.put(block)
        queue.close()

    writer = threading.Thread(target=write)
    writer.start()
    found = []
    while not queue.is_done:
        if (piece := queue.get(1.0)) is not None:
            found.append(piece)
            assert queue.seconds <= 5.0
    writer.join()
    assert [piece.dropped for piece in found] == [0] * 31
    np.testing.assert_array_equal(np.concatenate([p.samples for p in found]), np.concatenate(blocks))


def test_closing_ends_a_writer_that_waits():
    queue = AudioQueue(RATE, 0.1, waits=True)
    queue.put(np.zeros(10, np.float32))
    answers = []
    writer = threading.Thread(target=lambda: answers.append(queue.put(np.zeros(10, np.float32))))
    writer.start()
    queue.close()
    writer.join(10)
    assert answers == [False]
    assert queue.drain() == 10
    assert queue.is_done


def test_what_broke_is_raised_after_the_last_block():
    queue = AudioQueue(RATE)
    queue.put(np.ones(3, np.float32))
    queue.close(DataError("gone"))
    piece = queue.get(0)
    assert piece is not None
    assert piece.samples.tolist() == [1, 1, 1]
    assert not queue.is_done
    with pytest.raises(DataError, match="gone"):
        queue.get(0)
    assert queue.is_done
    assert queue.get(0) is None


def test_a_queue_without_room_is_refused():
    with pytest.raises(ArgumentError, match="more than 0"):
        AudioQueue(RATE, 0)
