"""A scan with `--resample` and training without it: noticed at the start, not clip by clip in every epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v.config import build_config
from w2v.data import dataset
from w2v.errors import ConfigError
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask


def shelf(folder: Path, forms: list[tuple[int, int]]) -> Path:
    """Write a second of noise for each (rate, channels), and the manifest that `w2v-manifest --resample` makes."""
    rng = np.random.default_rng(0)
    for number, (rate, channels) in enumerate(forms):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.normal(size=(rate, channels)), rate)
    lines = [str(folder), *(f"{number}.wav\t16000" for number in range(len(forms)))]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder


def load(folder: Path, **options: object) -> dataset.AudioDataset:
    config = build_config(AudioPretrainingConfig, {"data": str(folder), **options}, "test")
    return AudioPretrainingTask(config).load_dataset("train")


@pytest.mark.parametrize("form", [(44100, 1), (16000, 2), (8000, 1)])
def test_no_clip_of_the_form_that_is_needed(tmp_path: Path, form: tuple[int, int]) -> None:
    folder = shelf(tmp_path, [form] * 20)
    with pytest.raises(ConfigError, match=r"16 of the 16 clips of train .* not 16000 Hz mono.*--resample") as error:
        load(folder)
    assert f"0.wav ({form[0]} Hz, {form[1]} channel" in str(error.value)
    assert "and 11 more" in str(error.value)
    assert len(load(folder, resample=True)) == 20


def test_some_clips_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shelf(tmp_path, [(16000, 1)] * 5 + [(22050, 1)] + [(16000, 2)])
    assert len(load(folder)) == 7
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "2 of the 7 clips" in line
    assert "5.wav (22050 Hz, 1 channel), 6.wav (16000 Hz, 2 channels)" in line
    caplog.clear()
    load(folder, channel=1)  # of stereo files
    load(folder, resample=True)
    assert [record.getMessage() for record in caplog.records if "6.wav" in record.getMessage()] == []


def test_ordinary_and_unreadable_clips_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shelf(tmp_path, [(16000, 1)] * 3)
    (folder / "1.wav").write_bytes(b"no sound")
    load(folder)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
