"""Oracle: the numbers of the frames themselves, computed window by window and for the whole clip."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.functional.conv_spec import frame_lengths
from w2v.functional.windows import equal_chunks, overlapping_windows

LAYERS = ((1, 10, 5), (1, 8, 4), (1, 4, 2))


def frames_of(samples: torch.Tensor) -> torch.Tensor:
    """Return for each frame the mean of the samples it sees, by real convolutions."""
    x = samples.double()[None, None]
    for _, kernel, stride in LAYERS:
        x = torch.nn.functional.conv1d(x, torch.full((1, 1, kernel), 1 / kernel, dtype=torch.float64), stride=stride)
    return x.flatten()


@settings(max_examples=200)
@given(st.integers(105, 4000), st.integers(400, 900), st.integers(0, 100))
def test_windows_give_the_frames_of_the_whole_clip(num_samples: int, max_size: int, context: int) -> None:
    samples = torch.arange(num_samples)
    pieces = overlapping_windows(num_samples, LAYERS, max_size, context)
    kept = []
    for piece in pieces:
        assert 0 <= piece.start < piece.stop <= num_samples
        assert piece.num_samples <= max_size
        kept.append(frames_of(samples[piece.start : piece.stop])[piece.skip : piece.skip + piece.keep])
    expected = frames_of(samples)
    assert expected.numel() == frame_lengths(num_samples, LAYERS)
    torch.testing.assert_close(torch.cat(kept), expected)
    assert len({piece.num_samples for piece in pieces}) == 1


@settings(max_examples=100)
@given(st.integers(1000, 4000), st.integers(400, 900), st.integers(0, 100))
def test_frames_that_are_kept_have_their_context(num_samples: int, max_size: int, context: int) -> None:
    first = 0
    for piece in overlapping_windows(num_samples, LAYERS, max_size, context):
        begin, end = 40 * first, 40 * (first + piece.keep - 1) + 105
        assert piece.start <= max(begin - context, 0)
        assert piece.stop >= min(end + context, num_samples - 39)
        first += piece.keep


@pytest.mark.parametrize(("num_samples", "max_size"), [(60681, 20000), (42528, 20000), (20000, 20000), (20001, 20000)])
def test_chunks_are_those_of_torch(num_samples: int, max_size: int) -> None:
    parts = torch.arange(num_samples).chunk(-(-num_samples // max_size))
    pieces = equal_chunks(num_samples, LAYERS, max_size)
    assert [(int(part[0]), int(part[-1]) + 1) for part in parts] == [(piece.start, piece.stop) for piece in pieces]
    assert all(piece.keep == frames_of(torch.zeros(piece.num_samples)).numel() for piece in pieces)


def test_a_clip_that_fits_is_one_piece() -> None:
    for cut in (overlapping_windows(500, LAYERS, 500, 100), equal_chunks(500, LAYERS, 500)):
        assert [(piece.start, piece.stop, piece.skip, piece.keep) for piece in cut] == [(0, 500, 0, 10)]
    assert len(overlapping_windows(10**6, LAYERS, 0, 100)) == 1


def test_margins_must_leave_a_frame() -> None:
    with pytest.raises(ValueError, match="leaves no frame"):
        overlapping_windows(1000, LAYERS, 300, 150)
