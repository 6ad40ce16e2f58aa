"""Clips that are stretches of files (`path:offset:frames`), and files that hold more than libsndfile reads."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from w2v.data.audio import audio_info, read_audio
from w2v.data.dataset import AudioDataset
from w2v.data.guessed_length import is_guessed
from w2v.data.manifest import read_manifest
from w2v.errors import DataError

RATE = 16000


def noise(samples, seed=0):
    return (0.3 * np.random.default_rng(seed).normal(size=samples)).clip(-1, 1).astype(np.float32)


def manifest(folder, *rows):
    (folder / "x.tsv").write_text("\n".join([str(folder), *rows]) + "\n")
    return read_manifest(folder / "x.tsv")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "float.wav", "a.ogg"])
def test_a_stretch_is_that_part_of_the_file(tmp_path, name):
    subtype = "FLOAT" if name.startswith("float") else None
    soundfile.write(tmp_path / name, noise(50_000), RATE, subtype=subtype)
    whole = read_audio(str(tmp_path / name), RATE)
    clips = manifest(tmp_path, f"{name}:1000:20000\t20000", f"{name}:0:16000\t16000", f"{name}:30000:20000\t20000")
    data = AudioDataset(clips, pad=True)
    batch = data.batch([0, 1, 2], 0)
    for row, (start, frames) in enumerate([(1000, 20000), (0, 16000), (30000, 20000)]):
        assert np.array_equal(batch.source[row, :frames].numpy(), whole[start : start + frames])
    assert not batch.source[1, 16000:].any()
    cropped = AudioDataset(clips, max_sample_size=5000).batch([0, 2], 3).source.numpy()
    assert any(np.array_equal(cropped[0], whole[start : start + 5000]) for start in range(1000, 16001))


def test_a_stretch_at_another_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(44100), 22050)
    clips = manifest(tmp_path, "a.wav:11025:22050\t16000")
    source = AudioDataset(clips, resample=True, pad=True).batch([0], 0).source
    assert source.shape == (1, 16000)


def test_a_stretch_beyond_the_end(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(8000), RATE)
    soundfile.write(tmp_path / "f.wav", noise(8000), RATE, subtype="FLOAT")
    for name in ("a.wav", "f.wav"):
        with pytest.raises(DataError, match="ends 2000 samples before the stretch"):
            read_audio(str(tmp_path / name), RATE, start=6000, frames=4000)
        with pytest.raises(DataError, match=r"holds 8000 samples, and none at 9000|ends 1000 samples before"):
            read_audio(str(tmp_path / name), RATE, start=9000, frames=1000)


@pytest.mark.parametrize(
    ("row", "message"),
    [("clips.zip:123:0\t456", "x.tsv:3: path:offset:frames must have at least one frame"),
     ("a.wav:0:0\t0", "x.tsv:3: path:offset:frames must have at least one frame"),
     ("a.wav:-1:5\t5", "x.tsv:3: path:offset:frames must be whole numbers of samples, 0 or more, got 'a.wav:-1:5'"),
     ("a.wav:0.5:1.25\t9", "x.tsv:3: path:offset:frames must be whole numbers"),
     ("a.wav:3:9999999999999999\t9", "x.tsv:3: path:offset:frames must be whole numbers")],
)  # fmt: skip
def test_unknown_forms_are_refused_at_the_start(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        manifest(tmp_path, "a.wav:0:16000\t16000", row)


def test_a_colon_in_a_name_is_an_ordinary_letter(tmp_path):
    clips = manifest(tmp_path, "12:30.wav\t5", "x:1.wav\t5", "y:1\t5", "12:30:15.wav\t5", "z:1.5:x\t5")
    assert [clips.stretch(row)[1] for row in range(5)] == [None] * 5


# ------------------------------------------------------------------------------------------ lengths that are guessed


def encoded(samples, kind):
    file = io.BytesIO()
    file.name = f"x.{kind}"
    soundfile.write(file, samples, 44100 if kind == "mp3" else 48000, format=kind.upper() if kind != "opus" else "OGG",
                    subtype="OPUS" if kind == "opus" else None)  # fmt: skip
    return file.getvalue()


@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3"])
def test_joined_files_are_read_to_their_end(tmp_path, kind):
    pytest.importorskip("av")
    one, two = encoded(noise(96_000, 1), kind), encoded(noise(144_000, 2), kind)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(one)
    container = soundfile.info(path).format
    assert not is_guessed(str(path), container)
    path.write_bytes(one + two)
    assert soundfile.info(path).frames < 200_000
    assert is_guessed(str(path), container)
    rate = audio_info(str(path)).sample_rate
    assert audio_info(str(path)).frames == pytest.approx(240_000, rel=0.03)
    assert len(read_audio(str(path), rate)) == audio_info(str(path)).frames


@pytest.mark.parametrize(("rates", "expected"), [([0x90] * 9, False), ([0x90] * 8 + [0xA0], True)])
def test_a_variable_rate_without_a_table_is_a_guess(tmp_path, rates, expected):
    # Frames of MPEG 1, layer III, 44.1 kHz, stereo: 128 kbit/s (0x90) have 417 bytes, 160 (0xA0) 522.
    frames = [bytes([0xFF, 0xFB, rate, 0]) + bytes((417 if rate == 0x90 else 522) - 4) for rate in rates]
    (tmp_path / "x.mp3").write_bytes(b"".join(frames) + b"TAG" + bytes(125))
    assert is_guessed(str(tmp_path / "x.mp3"), "MP3") is expected


def test_without_pyav_the_reason_is_given(tmp_path, monkeypatch):
    from w2v.data import media_file

    (tmp_path / "x.ogg").write_bytes(2 * encoded(noise(48_000), "ogg"))
    monkeypatch.setattr(media_file, "is_installed", lambda: False)
    with pytest.raises(DataError, match=r"is joined of several files, .* libsndfile reads only a part of it"):
        audio_info(str(tmp_path / "x.ogg"))


def test_real_files_are_not_suspected(data):
    for path in [*sorted((data / "odd_real").iterdir()), *sorted((data / "ljspeech22k").glob("*.mp3"))]:
        try:
            container = soundfile.info(path).format
        except soundfile.LibsndfileError:
            continue
        assert not is_guessed(str(path), container), path
