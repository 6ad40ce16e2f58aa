"""Windows of a recording, in any blocks: what is kept tiles it exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data.audio import normalize
from w2v.data.level_detector import LevelDetector
from w2v.data.speech_segments import SpeechRule, speech_segments
from w2v.errors import ConfigError
from w2v.functional.conv_spec import frame_lengths
from w2v.inference.windows import WindowGrid, measured, speech_stretches, window_grid

LAYERS = ((512, 10, 5), *(((512, 3, 2),) * 4), *(((512, 2, 2),) * 2))


def blocks_of(samples: np.ndarray, seed: int, largest: int):
    rng = np.random.default_rng(seed)
    done = 0
    while done < len(samples):
        size = int(rng.integers(0, largest))
        yield samples[done : done + size]
        done += size


@settings(max_examples=80)
@given(st.integers(0, 30_000), st.integers(0, 8), st.integers(1, 8), st.integers(1, 20), st.integers(0, 9))
def test_kept_frames_tile_the_stretch(size, left, right, extra, seed):
    """P4: no frame is lost, doubled or past the end, whatever window, context, length and blocks."""
    grid = WindowGrid(LAYERS, (left + right + extra) * 320, left * 320, right * 320)
    samples = np.arange(size, dtype=np.float32)
    found = []
    windows = list(grid.windows(blocks_of(samples, seed, 5000), offset=7))
    for window in windows:
        # The frame that begins at sample s holds s.
        starts = window.samples[::320][window.skip : window.skip + window.keep]
        assert len(starts) == window.keep
        assert window.skip + window.keep <= max(frame_lengths(len(window.samples), LAYERS), 0)
        found += starts.tolist()
    assert found == [320.0 * frame for frame in range(frame_lengths(size, LAYERS))]
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    assert {window.offset for window in windows} == {7}


def test_windows_are_those_recorded(golden):
    """P4: first and last sample of each window, and its context, as transformers cuts (with right context)."""
    recorded = torch.load(golden / "people/hf_stitch/expected.pt", weights_only=True)
    for run in recorded["models"]["layer"]["runs"]:
        size, left, right = run["chunk_samples"]
        if not run["contiguous"]:
            continue
        samples = np.arange(153_211, dtype=np.float32)
        windows = list(WindowGrid(LAYERS, size, left, right).windows([samples]))
        found = [[int(w.samples[0]), int(w.samples[-1]) + 1, w.skip] for w in windows]
        assert found == [[start, end, left // 320] for start, end, left, _ in run["chunks"].tolist()]


def test_a_stretch_is_not_cut_without_a_window():
    (window,) = WindowGrid(LAYERS, 0, 0, 0).windows(blocks_of(np.zeros(100_000, np.float32), 1, 999))
    assert (len(window.samples), window.keep) == (100_000, frame_lengths(100_000, LAYERS))


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match="--window must exceed twice --context"):
        window_grid(LAYERS, 16000, 8.0, 4.0)
    with pytest.raises(ConfigError, match="--context must be at least"):
        window_grid(LAYERS, 16000, 8.0, 0.0)


def test_stretches_hold_their_samples():
    rng = np.random.default_rng(3)
    samples = np.zeros(16000 * 30, np.float32)
    for start in (0, 4, 11, 12.5, 22, 29):
        samples[int(16000 * start) : int(16000 * (start + 1))] = rng.normal(0, 0.1, 16000)[: len(samples)]
    rule = SpeechRule(min_silence=0.3, pad=0.2, max_speech=2.0)
    expected = speech_segments(samples, LevelDetector(), rule)
    assert len(expected) > 4
    for largest in (100, 3000, 10**6):
        found = list(speech_stretches(blocks_of(samples, 5, largest), LevelDetector(), rule))
        assert [stretch for stretch, _ in found] == expected
        for (start, end), part in found:
            np.testing.assert_array_equal(part, samples[start:end])


@pytest.mark.parametrize("longest", [0, 10**9])
def test_mean_and_deviation_are_those_of_the_whole(longest):
    """P5: `normalize` uses the whole recording's mean and variance, however it is read."""
    samples = np.random.default_rng(4).normal(0.3, 0.2, 100_003).astype(np.float32)
    samples[50_000:] *= 0.01
    mean, scale, blocks = measured(lambda: blocks_of(samples, 6, 4000), longest)
    found = (np.concatenate(list(blocks)) - mean) * scale
    np.testing.assert_allclose(found, normalize(samples), atol=2e-6)
    assert measured(lambda: iter(()), longest)[:2] == (0.0, pytest.approx(1e-5**-0.5))
