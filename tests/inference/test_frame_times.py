"""Times of transcripts are those of `w2v.frame_times`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import w2v

soundfile = pytest.importorskip("soundfile")


def test_words_and_characters_begin_and_end_with_frames(data: Path, digits_model: Path) -> None:
    """A frame stands for the stride around its centre: every time of the JSON is such a border, in milliseconds."""
    clip, rate = soundfile.read(data / "digits_valid_seen/george/vs_george_00000.flac", dtype="float32")
    model = w2v.load_model(digits_model)
    frames = w2v.frame_times(model, len(clip))
    assert len(frames.centre) == len(w2v.features(model, clip, rate))
    step = 1 / frames.rate
    assert np.allclose(np.diff(frames.seconds), step)
    borders = np.round(1000 * np.append(frames.seconds - step / 2, frames.seconds[-1] + step / 2))
    talk = w2v.transcribe(clip, rate, model=model)
    spans = [*talk.words, *talk.chars]
    assert len(spans) == 3 + len("FOURTWONINE")
    for span in spans:
        for time in (span.start, span.end):
            # Half a millisecond of rounding on either side; ends may be cut to the next start.
            assert np.abs(borders - 1000 * time).min() <= 1
