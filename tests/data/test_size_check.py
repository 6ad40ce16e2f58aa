"""Headers that tell of less than the file holds are found, and honest ones are left alone."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
import soundfile

from w2v.data.audio import audio_info, read_audio
from w2v.data.size_check import check_sizes, is_untold
from w2v.errors import DataError
from w2v.shards.member import Loaded


def wav(path, held, told, behind=b"", value=b"\0"):
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", (told + 36) & 0xFFFFFFFF) + b"WAVEfmt ")
        file.write(
            struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data" + struct.pack("<I", told & 0xFFFFFFFF)
        )
        if value == b"\0":
            file.truncate(44 + held)  # a hole: no disk is used
            file.seek(44 + held)
        else:
            file.write(value * held)
        file.write(behind)
    return str(path)


def check(path):
    info = soundfile.info(path)
    check_sizes(path, info.format, info.subtype, info.channels, info.frames, info.samplerate)


@pytest.mark.parametrize("value", [b"\0", b"A", b"\xff"])
def test_a_stale_header(tmp_path, value):
    with pytest.raises(DataError, match=r"x\.wav: its header tells of 1\.0 s, the file holds 3\.0 s"):
        check(wav(tmp_path / "x.wav", 96000, 32000, value=value))


def test_what_was_written_to_a_pipe(tmp_path):
    sound = np.arange(24000, dtype=np.int16)
    path = wav(tmp_path / "x.wav", 0, 0xFFFFFFFF, sound.tobytes())
    assert np.array_equal(read_audio(path, 16000) * 32768, sound)  # to its end
    path = wav(tmp_path / "y.wav", 0, 0, sound.tobytes())
    assert audio_info(path).frames == 0  # libsndfile sees nothing
    assert is_untold(path)
    assert is_untold(Loaded("y.wav", (tmp_path / "y.wav").read_bytes()))


@pytest.mark.parametrize("behind", [b"", b"LIST" + struct.pack("<I", 9000) + bytes(9000)])
def test_no_sound_is_no_sound(tmp_path, behind):
    assert not is_untold(wav(tmp_path / "x.wav", 0, 0, behind))


@pytest.mark.parametrize("kind", ["AU", "CAF", "RF64"])
@pytest.mark.parametrize("seconds", [1, 40])
def test_joined_files_of_which_the_first_is_read(tmp_path, kind, seconds):
    sound = np.random.default_rng(0).normal(size=seconds * 16000) * 0.1
    soundfile.write(tmp_path / "x", sound, 16000, format=kind, subtype="PCM_16")
    one = (tmp_path / "x").read_bytes()
    check(str(tmp_path / "x"))
    (tmp_path / "x").write_bytes(one + one)
    with pytest.raises(DataError, match=r"is joined of several|tells of 40\.0 s, the file holds 80\.\d s"):
        check(str(tmp_path / "x"))


def test_a_wrapped_header(tmp_path):
    with pytest.raises(DataError, match=r"tells of 600\.0 s, the file holds 134817\.\d s"):
        check(wav(tmp_path / "x.wav", 2**32 + 19_200_000, 19_200_000))


@pytest.mark.parametrize(
    "behind",
    [b"", b"LIST" + struct.pack("<I", 9000) + bytes(9000), b"id3 " + struct.pack("<I", 9001) + bytes(9002),
     b"bext" + struct.pack("<I", 8000) + b"x" * 8000 + b"LIST" + struct.pack("<I", 10) + bytes(10)],
)  # fmt: skip
def test_chunks_behind_the_samples_are_no_samples(tmp_path, behind):
    check(wav(tmp_path / "x.wav", 32000, 32000, behind))


@pytest.mark.parametrize("name", ["x.aiff", "x.au", "x.w64", "x.rf64", "x.caf", "x.wav"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_24"])
def test_honest_files_of_other_kinds(tmp_path, name, subtype):
    path = tmp_path / name
    samples = np.zeros((40000, 2), dtype=np.float32)
    try:
        soundfile.write(path, samples, 16000, subtype=subtype, format=name[2:].upper())
    except ValueError:
        pytest.skip("no such kind")
    check(str(path))


def test_a_wrapped_aiff(tmp_path):
    path = tmp_path / "x.aiff"
    soundfile.write(path, np.zeros(32000, dtype=np.float32), 16000)
    with open(path, "ab") as file:
        file.truncate(os.path.getsize(path) + 4_000_000)
    with pytest.raises(DataError, match=r"tells of 2\.0 s"):
        check(str(path))


def test_a_short_flac_with_much_beside_its_samples(tmp_path):
    path = tmp_path / "x.flac"
    soundfile.write(path, np.zeros(3200, dtype=np.float32), 16000)
    content = path.read_bytes()
    first = 4 + 4 + 34  # marker, head and body of STREAMINFO
    picture = bytes([1]) + (3_000_000).to_bytes(3, "big") + bytes(3_000_000)
    path.write_bytes(content[:4] + bytes([content[4] & 0x7F]) + content[5:first] + picture + content[first:])
    assert soundfile.info(str(path)).frames == 3200
    check(str(path))


def test_odd_files_that_can_be_read_pass(data):
    for path in sorted((data / "odd").rglob("*")):
        try:
            soundfile.info(str(path))
        except (soundfile.LibsndfileError, RuntimeError, TypeError):
            continue
        check(str(path))
