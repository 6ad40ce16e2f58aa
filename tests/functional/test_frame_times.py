"""A click at a known sample is seen by the frames that say they are made of it, and by no others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from every_model import NAMES, make
from every_model import clips as noise

import w2v
from w2v.errors import ArgumentError
from w2v.inference.emissions import emission_info
from w2v.inference.load import LoadedModel
from w2v.models import W2vModel

LAYER_NORM = [name for name in NAMES if "layer_norm" in name or name == "plugin"]


@pytest.mark.parametrize("click", [0, 104, 105, 1234, 1999, 2984, 2999])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_click(name: str, click: int) -> None:
    model = make(name).double()
    source, _ = noise([3000])
    times = w2v.frame_times(model, 3000)
    with_click = source.clone()
    with_click[0, click] += 100.0
    before, after = (model.extract_features(x, layer="z").features[0] for x in (source, with_click))
    assert len(times) == len(before)
    changed = (after - before).abs().sum(dim=1)
    inside = (times.start <= click) & (click < times.stop)
    if name in LAYER_NORM:
        assert np.array_equal(changed.numpy() > 0, inside)
    elif click in (1234, 1999):  # group norms see the whole clip: the change is largest where the click is
        assert abs(times.centre[int(changed.argmax())] - click) <= times.stop[0] / 2
        assert inside[int(changed.argmax())]
    assert np.array_equal(times.centre, (times.start + times.stop) / 2)


def test_rates_and_seconds() -> None:
    model = make("wav2vec2")
    assert w2v.frame_times(model, 3000).rate is None
    with pytest.raises(ValueError, match="sample rate"):
        _ = w2v.frame_times(model, 3000).seconds
    task: Any = SimpleNamespace(config=SimpleNamespace(sample_rate=8000, labels="ltr"))
    loaded = LoadedModel(model, task, {}, 0)
    times = w2v.frame_times(loaded, 3000)
    assert times.rate == 8000 / 40
    np.testing.assert_allclose(times.seconds, (np.arange(len(times)) * 40 + 52.5) / 8000)
    assert len(w2v.frame_times(loaded, 104)) == 0
    # The times of transcripts: a frame stands for the stride around its centre.
    info = emission_info(loaded, "m", SimpleNamespace(symbols=["a"]), "letter")  # type: ignore[arg-type]
    begins = [info.seconds(frame) for frame in range(len(times))]
    np.testing.assert_allclose(begins, times.seconds - times.stride / 2 / 8000)


def test_files_of_features_hold_the_same_rate(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    from w2v.inference.feature_file import read_features, write_features

    times = w2v.frame_times(make("wav2vec"), 3000, sample_rate=16000)
    frames = np.zeros((len(times), 4), np.float32)
    write_features(tmp_path / "a.h5context", frames, float(times.rate or 0), "h5")
    assert h5py.File(tmp_path / "a.h5context")["info"][0] == 400
    assert read_features(tmp_path / "a.h5context").shape == frames.shape


def test_a_model_that_does_not_say() -> None:
    with pytest.raises(ArgumentError, match="conv_layers"):
        w2v.frame_times(W2vModel(), 3000)
