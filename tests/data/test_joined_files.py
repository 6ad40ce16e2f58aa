"""Files of which libsndfile reads a part only, made by real encoders: they are decoded to their end, or refused.

Oracle: the samples that were encoded. Their last second must be at the end of what is read, and all of them in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from media import write_media
from toy_speech import call

from w2v.data import media_file
from w2v.data.audio import audio_info, read_audio
from w2v.errors import DataError
from w2v.inference.recording import read_audio as read_recording
from w2v.shards.member import Loaded
from w2v_cli import manifest

pytest.importorskip("av")

RATE = 16000
PADDING = 0.15  # seconds that each encoder may add: its delay, and the filling of its last frame
NO_TABLE = {"write_xing": "0", "id3v2_version": "0"}


def sound(seed: int, seconds: float) -> np.ndarray:
    """Return a glide that grows loud after a while, so that a variable bit rate varies."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    samples = 0.3 * np.sin(2 * np.pi * (300 + 200 * time + 50 * seed) * time) + 0.05 * rng.normal(size=len(time))
    samples[: len(samples) // 2] *= 0.02
    return samples.astype(np.float32)


FIRST, SECOND = sound(1, 4.0), sound(2, 3.0)


def encoded(folder: Path, kind: str, samples: np.ndarray) -> bytes:
    path = folder / f"part.{kind.split('-')[0]}"
    if kind == "mp3-variable":  # no table tells its length
        options = dict(container_options=NO_TABLE, codec_options={"abr": "1"}, bit_rate=48_000)
        write_media(path, samples, RATE, "libmp3lame", RATE, **options)
    elif kind == "mp3-constant":
        write_media(path, samples, RATE, "libmp3lame", RATE, container_options=NO_TABLE, bit_rate=64_000)
    elif kind == "mp3-44100":
        write_media(path, samples, RATE, "libmp3lame", 44100)
    elif kind == "mp3":  # with a title and a table
        write_media(path, samples, RATE, "libmp3lame", RATE)
    elif kind == "opus":
        write_media(path, samples, RATE, "libopus", 48000)
    elif kind == "wma":
        write_media(path, samples, RATE, "wmav2", RATE)
    elif kind == "tta":
        write_media(path, samples, RATE, "tta", RATE)
    elif kind == "flv":
        write_media(path, samples, RATE, "aac", 44100)
    elif kind in ("m4a", "aac"):
        write_media(path, samples, RATE, "aac", RATE)
    else:
        soundfile.write(path, samples, RATE)
    return path.read_bytes()


JOINED = [
    ("mp3-variable",), ("mp3", "mp3"), ("mp3-constant", "mp3-variable"), ("mp3", "mp3-44100"), ("mp3-variable", "mp3"),
    ("ogg", "ogg"), ("opus", "opus"), ("flac", "flac"), ("aac", "aac"),
]  # fmt: skip


def joined(folder: Path, kinds: tuple[str, ...]) -> tuple[Path, np.ndarray]:
    parts = (FIRST, SECOND)[: len(kinds)]
    path = folder / f"x.{kinds[0].split('-')[0]}"
    path.write_bytes(b"".join(encoded(folder, kind, part) for kind, part in zip(kinds, parts)))
    return path, np.concatenate(parts)


@pytest.mark.parametrize("kinds", JOINED, ids="+".join)
def test_they_are_decoded_to_their_end(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    path, truth = joined(tmp_path, kinds)
    found = read_audio(str(path), RATE, resample=True)
    most = PADDING * RATE * len(kinds)
    assert -0.02 * RATE <= len(found) - len(truth) <= most
    assert audio_info(str(path)).frames_at(RATE) == pytest.approx(len(found), abs=16)
    np.testing.assert_array_equal(read_recording(path, RATE), found)
    last = truth[-RATE:]
    products = np.correlate(found[-RATE - int(most) :].astype(np.float64), last.astype(np.float64), mode="valid")
    # How much of the last second is there, at the lag where it fits best.
    place = int(products.argmax()) + len(found) - RATE - int(most)
    piece = found[place : place + RATE]
    assert products.max() / (np.linalg.norm(last) * np.linalg.norm(piece)) > 0.9


@pytest.mark.parametrize("lengths", [(1, 1), (1, 1, 1), (1, 1, 1, 1, 1), (3, 1), (1, 3)])
def test_long_flac_files_that_were_joined(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    """Beyond a megabyte the frames tell: files of one length too, whose frames end where the header says."""
    seconds = 40
    noise = np.random.default_rng(0).normal(size=seconds * RATE * max(lengths)) * 0.1
    for number in set(lengths):
        soundfile.write(tmp_path / f"{number}.flac", noise[: number * seconds * RATE], RATE)
    assert (tmp_path / "1.flac").stat().st_size > 1 << 20
    path = tmp_path / "x.flac"
    path.write_bytes(b"".join((tmp_path / f"{number}.flac").read_bytes() for number in lengths))
    assert path.stat().st_size > 1 << 20
    assert audio_info(str(path)).frames == sum(lengths) * seconds * RATE
    for number in set(lengths):
        assert audio_info(str(tmp_path / f"{number}.flac")).frames == number * seconds * RATE


def test_what_cannot_be_read_to_its_end_is_rejected_in_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for name, kinds in {"a.m4a": ("m4a", "m4a"), "b.mp3": ("mp3-variable",), "c.flac": ("flac", "flac")}.items():
        joined(tmp_path, kinds)[0].rename(folder / name)
    soundfile.write(folder / "d.flac", FIRST, RATE)
    listed = call(manifest.main, [folder, "--dest", tmp_path / "with", "--valid-percent", 0])
    assert listed.code == 0
    rows = dict(line.split("\t") for line in (tmp_path / "with/train.tsv").read_text().splitlines()[1:])
    assert rows.keys() == {"b.mp3", "c.flac", "d.flac"}
    assert int(rows["c.flac"]) == len(FIRST) + len(SECOND)
    assert "joined of several MP4 files" in (tmp_path / "with/rejects.tsv").read_text()
    with pytest.raises(DataError, match="joined of several MP4 files"):
        read_recording(folder / "a.m4a", RATE)
    monkeypatch.setattr(media_file, "is_installed", lambda: False)
    call(manifest.main, [folder, "--dest", tmp_path / "without", "--valid-percent", 0])
    rejects = (tmp_path / "without/rejects.tsv").read_text()
    assert all(name in rejects for name in ("a.m4a", "b.mp3"))
    assert "d.flac" not in rejects
    rows = dict(line.split("\t") for line in (tmp_path / "without/train.tsv").read_text().splitlines()[1:])
    assert int(rows["c.flac"]) == len(FIRST) + len(SECOND)


@pytest.mark.parametrize("lengths", [(16000, 16000), (16384, 16384), (12288, 5000), (8000, 16000, 3000), (700, 700)])
@pytest.mark.parametrize("in_memory", [False, True])
def test_every_sample_of_joined_flac_files(tmp_path: Path, lengths: tuple[int, ...], in_memory: bool) -> None:
    """Whatever block the parts end in: FFmpeg drops one of 4096 samples at some of these seams."""
    rng, parts = np.random.default_rng(1), []
    path = tmp_path / "x.flac"
    for number, size in enumerate(lengths):
        parts.append(rng.integers(-3000, 3000, size).astype(np.int16))
        soundfile.write(tmp_path / f"{number}.flac", parts[-1], RATE)
    path.write_bytes(b"".join((tmp_path / f"{number}.flac").read_bytes() for number in range(len(lengths))))
    truth = np.concatenate(parts).astype(np.float32) / 32768
    source = Loaded("x.flac", path.read_bytes()) if in_memory else str(path)
    assert audio_info(source).frames == sum(lengths)
    np.testing.assert_array_equal(read_audio(source, RATE), truth)
    np.testing.assert_array_equal(read_audio(source, RATE, start=500, frames=900), truth[500:1400])


def test_joined_flac_files_of_two_rates_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", FIRST, RATE)
    soundfile.write(tmp_path / "b.flac", np.stack([FIRST, FIRST], 1), 8000)
    (tmp_path / "x.flac").write_bytes((tmp_path / "a.flac").read_bytes() + (tmp_path / "b.flac").read_bytes())
    with pytest.raises(
        DataError, match=r"joined of FLAC files of 8000 Hz with 2 channels and 16000 Hz with 1 channels"
    ):
        audio_info(str(tmp_path / "x.flac"))


@pytest.mark.parametrize("kind", ["wma", "tta", "flv"])
def test_kinds_of_which_ffmpeg_reads_the_first_alone(tmp_path: Path, kind: str) -> None:
    path, _ = joined(tmp_path, (kind, kind))
    with pytest.raises(DataError, match="is joined of several files, of which FFmpeg reads the first"):
        audio_info(str(path))
    path.write_bytes(encoded(tmp_path, kind, FIRST))
    assert len(read_audio(str(path), RATE, resample=True)) == pytest.approx(len(FIRST), abs=PADDING * RATE)


def test_joined_ogg_files_of_two_rates_are_refused_in_words(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", FIRST, RATE)
    soundfile.write(tmp_path / "b.ogg", FIRST, 8000)
    (tmp_path / "x.ogg").write_bytes((tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes())
    with pytest.raises(DataError, match="cannot be decoded to its end: its rate or form changes within it; re-encode"):
        audio_info(str(tmp_path / "x.ogg"))
