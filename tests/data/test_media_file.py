"""M4A and its kin: the same sound, at the same place, through the same reader."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from media import write_media

from w2v.data import audio, media_file
from w2v.data.audio import audio_blocks, audio_info, audio_seconds, read_audio
from w2v.errors import DataError

av = pytest.importorskip("av")

RATE = 16000
KINDS = {
    "a.m4a": ("aac", 44100, "stereo"), "b.m4a": ("alac", 44100, "mono"), "a.mp4": ("aac", 48000, "stereo"),
    "a.mkv": ("libopus", 48000, "mono"), "a.webm": ("libopus", 48000, "stereo"), "a.wma": ("wmav2", 44100, "stereo"),
    "a.mka": ("flac", 22050, "mono"),
}  # fmt: skip
TOLD = {"a.m4a", "b.m4a", "a.mp4"}  # their headers tell the exact length


@pytest.fixture(scope="module")
def speech(data: Path) -> np.ndarray:
    return soundfile.read(data / "libri_valid/1624/1624-142933-0000.flac", dtype="float32")[0]


@pytest.fixture(scope="module")
def folder(speech, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name, (codec, rate, layout) in KINDS.items():
        write_media(folder / name, speech, RATE, codec, rate, layout)
    return folder


def lag(found: np.ndarray, speech: np.ndarray) -> tuple[int, float]:
    """Return by how many samples `found` is late, and how like it is there."""
    middle = speech[8000:40000]
    sums = np.correlate(found[: len(speech)], middle, "valid")
    late = int(np.argmax(sums)) - 8000
    part = found[8000 + late : 40000 + late]
    return late, float(sums.max() / np.linalg.norm(part) / np.linalg.norm(middle))


@pytest.mark.parametrize("name", KINDS)
def test_sound_is_at_its_place(folder, speech, name):
    """P2: no lag; the padding of the encoder is no sound where the header tells."""
    path = str(folder / name)
    found = read_audio(path, RATE, resample=True)
    late, likeness = lag(found, speech)
    assert late == 0 or name == "a.wma"  # WMA's encoder begins with silence, and no header tells
    assert likeness > 0.97
    if name in TOLD:
        assert len(found) == len(speech)
    info = audio_info(path)
    assert info.sample_rate == KINDS[name][1]
    assert info.frames_at(RATE) == len(found)
    assert audio_seconds(path) == (pytest.approx(len(speech) / RATE, abs=1e-3) if name in TOLD else None)
    np.testing.assert_allclose(np.concatenate(list(audio_blocks(path, RATE))), found, atol=1e-6)


def test_lossless_is_lossless(folder, speech):
    """ALAC against soxr on the samples that were written."""
    there = soxr.resample(soxr.resample(speech, RATE, 44100), 44100, RATE)
    np.testing.assert_allclose(read_audio(str(folder / "b.m4a"), RATE, resample=True), there, atol=1e-3)


def test_blocks_of_any_size_hold_the_same(folder):
    with open(folder / "a.m4a", "rb") as raw, media_file.media_file(raw, "a.m4a") as file:
        whole = np.concatenate(list(file.blocks(1)))
    for size in (5000, 10**9):
        with open(folder / "a.m4a", "rb") as raw, media_file.media_file(raw, "a.m4a") as file:
            np.testing.assert_array_equal(np.concatenate(list(file.blocks(size))), whole)


def test_other_rates_and_channels_are_refused_like_everywhere(folder):
    with pytest.raises(DataError, match=r"sample rate 44100 Hz, need 16000 Hz; --resample converts it"):
        read_audio(str(folder / "a.m4a"), RATE)


@pytest.mark.parametrize("keep", [0, 100, 3000, 20000])
def test_cut_files_are_read_or_refused_in_one_line(folder, tmp_path, keep):
    content = (folder / "a.m4a").read_bytes()
    path = tmp_path / "cut.m4a"
    path.write_bytes(content[:keep])
    with pytest.raises(DataError, match=r"cut.m4a: ") as error:
        read_audio(str(path), RATE, resample=True)
    assert "\n" not in str(error.value)


def test_a_film_without_sound(tmp_path):
    path = str(tmp_path / "silent.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32)
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(DataError, match=r"silent.mp4: holds no audio"):
        read_audio(path, RATE)


def test_a_play_list_opens_no_other_file(folder, tmp_path):
    """A list names files and addresses of others; only containers of sound are opened."""
    for name, text in {
        "list.m4a": f"#EXTM3U\n#EXTINF:3,\n{folder / 'a.m4a'}\n#EXT-X-ENDLIST\n",
        "concat.m4a": f"ffconcat version 1.0\nfile '{folder / 'a.m4a'}'\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="not readable as audio"):
            read_audio(str(tmp_path / name), RATE)


def test_without_pyav_the_extra_is_named(folder, tmp_path, monkeypatch):
    """P2: one line naming the extra; what is no audio at all is not blamed on it."""
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(audio.media, "is_installed", lambda: False)
    with pytest.raises(DataError, match=r'a.m4a: libsndfile does not read this format, .*pip install "w2v\[media\]"'):
        read_audio(str(folder / "a.m4a"), RATE)
    (tmp_path / "x.wav").write_bytes(b"no audio at all")
    with pytest.raises(DataError, match=r"x.wav: not readable as audio: Format not recognised"):
        read_audio(str(tmp_path / "x.wav"), RATE)
