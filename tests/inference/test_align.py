"""`w2v.align`: the same words as the program, from paths and samples, and what it says of a wrong text."""

from __future__ import annotations

import logging
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from joined_digits import RATE, JoinedDigits, join_digits
from toy_speech import call

import w2v
from w2v.errors import CheckpointError, DataError
from w2v.inference.load import LoadedModel
from w2v_cli import align as program

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def digits(data: Path) -> JoinedDigits:
    return join_digits(data, max_clips=4)


@pytest.fixture(scope="module")
def model(digits_model: Path) -> LoadedModel:
    return w2v.load_model(digits_model)


def test_from_samples_and_from_files(
    digits: JoinedDigits, model: LoadedModel, digits_model: Path, tmp_path: Path
) -> None:
    """The same times whichever way recording, text and model are given, and those that the program writes."""
    soundfile.write(tmp_path / "talk.wav", digits.samples, RATE, subtype="FLOAT")
    (tmp_path / "talk.txt").write_text("\n".join(digits.lines))
    found = w2v.align(digits.samples, digits.lines, RATE, model=model)
    assert [segment.text for segment in found.segments] == digits.lines
    assert found.confidence > 0.8
    with pytest.raises(FrozenInstanceError):
        found.file = "other"  # type: ignore[misc]
    for other in (
        w2v.align(tmp_path / "talk.wav", tmp_path / "talk.txt", model=digits_model),
        w2v.align(str(tmp_path / "talk.wav"), "\n".join(digits.lines), model=str(digits_model), device="cpu"),
        w2v.align(torch.from_numpy(digits.samples), digits.lines, RATE, model=model),
    ):
        assert [(word.text, word.start, word.end) for word in other.words] == [
            (word.text, word.start, word.end) for word in found.words
        ]
        np.testing.assert_allclose([w.confidence for w in other.words], [w.confidence for w in found.words], atol=1e-4)
    done = call(program.main, [digits_model, tmp_path / "talk.wav", "--cpu"])
    assert done.code == 0, done.err
    assert [float(line.split()[2]) for line in done.out.splitlines()] == [word.start for word in found.words]


def test_windows_of_a_long_recording(digits: JoinedDigits, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words lie where they lie when the model sees all at once."""
    whole = w2v.align(digits.samples, digits.lines, RATE, model=model)
    monkeypatch.setattr("w2v.inference.recording_emissions.WINDOW", 9.0)
    monkeypatch.setattr("w2v.inference.recording_emissions.CONTEXT", 3.0)
    parts = w2v.align(digits.samples, digits.lines, RATE, model=model)
    apart = np.abs(np.array([word.start for word in whole.words]) - [word.start for word in parts.words])
    assert np.mean(apart <= 0.021) >= 0.95


def test_wrong_texts(digits: JoinedDigits, model: LoadedModel, caplog: pytest.LogCaptureFixture, golden: Path) -> None:
    """P15, P18."""
    with caplog.at_level(logging.INFO):
        w2v.align(digits.samples, "\u043e\u0434\u0438\u043d \u0434\u0432\u0430", RATE, model=model)
    assert "was not heard" in caplog.text
    assert "the dictionary lacks" in caplog.text
    with pytest.raises(DataError, match="are too few for a text of"):
        w2v.align(digits.samples[:RATE], digits.lines, RATE, model=model)
    with pytest.raises(DataError, match="the text has no words"):
        w2v.align(digits.samples, " * ", RATE, model=model)
    with pytest.raises(DataError, match="sample_rate"):
        w2v.align(digits.samples, digits.lines, model=model)
    path = golden / "w2v2_base.pt"
    if path.exists():
        with pytest.raises(CheckpointError):
            w2v.align(digits.samples, digits.lines, RATE, model=path)
