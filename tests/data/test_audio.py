"""Audio files: equal to what soundfile reads in one piece, or refused in one line that names the file."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from w2v.data import audio, media_file
from w2v.data.audio import audio_info, normalize, read_audio
from w2v.errors import DataError


def attempt(path):
    """Return (samples, message of the error)."""
    try:
        return read_audio(path, 16000, resample=True), ""
    except DataError as e:
        return np.zeros(0), str(e)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("block", [None, 777])
def test_reads_what_soundfile_reads(tmp_path, monkeypatch, extension, block):
    path = str(tmp_path / f"clip.{extension}")
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 20001), 16000)
    expected, _ = soundfile.read(path, dtype="float32")
    if block:
        monkeypatch.setattr(audio, "BLOCK", block)
    found = read_audio(path, 16000)
    assert found.dtype == np.float32
    if extension == "mp3" and block:
        # libsndfile seeks after each read, and mp3 decoding starts anew there.
        assert abs(len(found) - len(expected)) <= 1152
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if extension == "mp3" else 0)
    assert audio_info(path) == audio.AudioInfo(16000, 1, 20001) or extension == "mp3"


@pytest.mark.parametrize("rate", [8000, 11025, 16001, 44100, 48000])
@pytest.mark.parametrize("frames", [1, 7, 9999, 44103])
def test_resampled_length_is_known_beforehand(tmp_path, rate, frames):
    path = str(tmp_path / "x.wav")
    soundfile.write(path, np.zeros(frames), rate)
    assert len(read_audio(path, 16000, resample=True)) == audio_info(path).frames_at(16000)


def test_resampling_keeps_a_tone(tmp_path):
    path = str(tmp_path / "x.wav")
    time = np.arange(48000) / 48000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), 48000, subtype="FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    middle = slice(800, -800)
    assert np.abs(read_audio(path, 16000, resample=True)[middle] - expected[middle]).max() < 1e-4


def test_several_channels(tmp_path):
    path = str(tmp_path / "x.wav")
    both = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, 2)).astype(np.float32)
    soundfile.write(path, both, 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"x.wav: 2 channels, need 1; --resample"):
        read_audio(path, 16000)
    np.testing.assert_allclose(read_audio(path, 16000, resample=True), both.mean(axis=1), atol=1e-7)
    soundfile.write(path, both, 8000, subtype="FLOAT")
    np.testing.assert_allclose(
        read_audio(path, 16000, resample=True), soxr.resample(both.mean(axis=1), 8000, 16000), atol=1e-6
    )


def test_refusals(tmp_path, monkeypatch):
    path = str(tmp_path / "x.wav")
    soundfile.write(path, np.zeros(100), 44100)
    with pytest.raises(DataError, match=r"x.wav: sample rate 44100 Hz, need 16000 Hz; --resample"):
        read_audio(path, 16000)
    for value, found in (
        (np.nan, "NaN or infinite samples"),
        (np.inf, "NaN or infinite samples"),
        (-np.inf, "NaN or infinite samples"),
        (-3e38, r"a sample of 3e\+38"),
    ):
        samples = np.full(20000, 2.0**31, dtype=np.float32)
        samples[[8000, 9000]] = value
        soundfile.write(path, samples, 16000, subtype="FLOAT")
        for block in (audio.BLOCK, 7777):
            monkeypatch.setattr(audio, "BLOCK", block)
            with pytest.raises(DataError, match=f"x.wav: holds {found}, first at 0.500 s"):
                read_audio(path, 16000)
    both = np.full((100, 2), 2.0**31, dtype=np.float32)
    soundfile.write(path, both, 8000, subtype="FLOAT")
    assert np.isfinite(normalize(read_audio(path, 16000, resample=True))).all()
    (tmp_path / "empty.wav").touch()
    with pytest.raises(DataError, match=r"empty.wav: not readable as audio: empty file"):
        read_audio(str(tmp_path / "empty.wav"), 16000)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 377000\n"
    for name in ("pointer.wav", "pointer.m4a"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(DataError, match=f"{name}: is a Git LFS pointer and not the file itself"):
            read_audio(str(tmp_path / name), 16000)
    with pytest.raises(DataError, match=r"none.wav: cannot be read: No such file"):
        read_audio(str(tmp_path / "none.wav"), 16000)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        audio_info(str(tmp_path))
    soundfile.write(path, np.zeros(100), 1)
    with pytest.raises(DataError, match=r"x.wav: a sample rate of 1 Hz cannot be brought to 16000 Hz"):
        read_audio(path, 16000, resample=True)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_refused_at_once(tmp_path, kind):
    """Opening a pipe waits for its writer, and a device has no end: either would keep a worker for ever."""
    path = tmp_path / "x.wav"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"x.wav: cannot be read: it is a pipe or a device, not a file"):
        read_audio(str(path), 16000)


def test_a_name_with_a_line_break_gives_one_line(tmp_path):
    with pytest.raises(DataError) as error:
        read_audio(str(tmp_path / "a\nb.wav"), 16000)
    assert "a\\nb.wav: cannot be read: No such file" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path):
    """STREAMINFO of a FLAC says 2**36 - 1 samples: 256 GB as float32."""
    path = tmp_path / "x.flac"
    soundfile.write(str(path), np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    assert audio_info(str(path)).frames == 2**36 - 1
    samples, problem = attempt(str(path))
    assert len(samples) == 4000 or "x.flac" in problem


def test_a_bomb_is_left_when_it_is_too_long(tmp_path, monkeypatch):
    """Hours of silence in a few kilobytes; what is decoded ends at the limit."""
    path = str(tmp_path / "x.flac")
    soundfile.write(path, np.zeros(16000 * 30, dtype=np.int16), 16000)
    assert len(read_audio(path, 16000)) == 480000
    monkeypatch.setattr(audio, "BLOCK", 16000)
    monkeypatch.setattr(audio, "LONGEST", 20)
    calls = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **more: calls.append(1) or read(*args, **more))
    with pytest.raises(DataError, match=r"x.flac: is longer than 0 hours; cut it into clips"):
        read_audio(path, 16000)
    assert len(calls) == 21


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_resampling_in_blocks_is_resampling_at_once(tmp_path, monkeypatch, rate):
    path = str(tmp_path / "x.wav")
    both = np.random.default_rng(0).uniform(-0.5, 0.5, (30001, 2)).astype(np.float32)
    soundfile.write(path, both, rate, subtype="FLOAT")
    expected = soxr.resample(both.mean(axis=1), rate, 16000, quality="HQ")
    for block in (audio.BLOCK, 5000):
        monkeypatch.setattr(audio, "BLOCK", block)
        np.testing.assert_array_equal(read_audio(path, 16000, resample=True), expected)


def test_normalize_against_closed_form():
    clip = np.random.default_rng(0).normal(0.3, 0.05, 5000).astype(np.float32)
    expected = (clip - clip.mean(dtype=np.float64)) / np.sqrt(clip.var(dtype=np.float64) + 1e-5)
    np.testing.assert_allclose(normalize(clip), expected, atol=1e-5)
    assert not normalize(np.full(100, 0.25, dtype=np.float32)).any()
    assert normalize(np.zeros(0, dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("offset", [0.0, 0.3, -900.0])
def test_normalize_keeps_its_digits_over_minutes_and_offsets(offset):
    rng = np.random.default_rng(1)
    clip = (rng.standard_normal(16000 * 300) * np.linspace(0, 1, 16000 * 300) + offset).astype(np.float32)
    exact = clip.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    found = normalize(clip)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 + 1e-6 * abs(offset))


def test_normalize_against_recorded(golden):
    recorded = torch.load(golden / "batching.pt", weights_only=True)["normalize"]
    found = normalize(recorded["mono"].numpy())
    torch.testing.assert_close(torch.from_numpy(found), recorded["mono_normalized"].float(), rtol=1e-5, atol=1e-5)
    mixed = recorded["stereo"].numpy().mean(axis=1)
    np.testing.assert_allclose(mixed, recorded["stereo_mean"].numpy(), atol=1e-6)
    np.testing.assert_allclose(
        normalize(mixed.astype(np.float32)), recorded["stereo_normalized"].numpy(), rtol=1e-5, atol=1e-5
    )


def test_odd_files_are_read_or_refused(data: Path):
    """Every file of the odd collection: soundfile's own verdict, recorded beside it, is the oracle."""
    folder = data / "odd"
    with open(folder / "EXPECT.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) > 100
    for row in rows:
        path, verdict = str(folder / row["path"]), row["soundfile"]
        samples, problem = attempt(path)
        # What libsndfile does not know, FFmpeg may.
        is_media = Path(path).suffix in (".m4a", ".mka", ".webm", ".aac") and media_file.is_installed()
        assert bool(problem) == (("ERROR" in verdict or "not finite" in verdict) and not is_media), row
        if problem:
            assert row["path"] in problem
            assert "\n" not in problem
        else:
            assert len(samples) == audio_info(path).frames_at(16000)
            assert np.isfinite(samples).all()


def test_odd_real_files(data: Path):
    for path in sorted((data / "odd_real").iterdir()):
        if path.suffix != ".tsv":
            samples = read_audio(str(path), 16000, resample=True)
            # The header of an mp3 gives the length to within its padding.
            assert abs(len(samples) - audio_info(str(path)).frames_at(16000)) <= 1152
