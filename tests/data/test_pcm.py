"""Samples from a pipe, against soundfile, in any pieces."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from w2v.data.pcm import PcmDecoder, PcmFormat, byte_blocks, decode_pcm, read_pcm_format, read_wav_header
from w2v.errors import DataError

SAMPLES = np.random.default_rng(1).uniform(-1, 1, (1001, 2)).astype(np.float32)


class Pipe(io.RawIOBase):
    """Gives at most `size` bytes at once, and cannot seek."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size

    def read(self, size: int = -1) -> bytes:
        size = min(size if size >= 0 else len(self.data), self.size)
        part, self.data = self.data[:size], self.data[size:]
        return part


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_wav_from_a_pipe(subtype, kind, size):
    """P12."""
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, 44100, format=kind, subtype=subtype)
    expected, rate = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
    pipe = Pipe(file.getvalue() + b"rest", size)
    format, length = read_wav_header(pipe)
    assert (format.sample_rate, format.channels) == (rate, 2)
    decoder = PcmDecoder(format)
    found = np.concatenate([decoder.push(data) for data in byte_blocks(pipe, length)])
    np.testing.assert_allclose(found, expected.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("told", [0, 0xFFFFFFFF, 0x7FFFF000 + 24])
def test_wav_of_unknown_length_ends_with_the_pipe(told):
    file = io.BytesIO()
    soundfile.write(file, SAMPLES[:, 0], 16000, format="WAV", subtype="PCM_16")
    data = file.getvalue().replace(b"data" + struct.pack("<I", 2002), b"data" + struct.pack("<I", told))
    pipe = Pipe(data, 333)
    format, length = read_wav_header(pipe)
    assert length is None
    assert sum(map(len, byte_blocks(pipe, length))) == 2002
    assert format == PcmFormat("s16le", 16000, 1)


@pytest.mark.parametrize("kind", ["s16be", "s32be", "f32be", "u8", "s24le"])
def test_raw_kinds_against_soundfile(kind):
    subtypes = {"s16": "PCM_16", "s32": "PCM_32", "f32": "FLOAT", "u8": "PCM_U8", "s24": "PCM_24"}
    endian = {"be": "BIG", "le": "LITTLE"}.get(kind[-2:], "FILE")
    file = io.BytesIO()
    options = dict(format="RAW", subtype=subtypes[kind.removesuffix(kind[-2:]) or kind], endian=endian)
    soundfile.write(file, SAMPLES[:, 0], 16000, **options)
    expected, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", samplerate=16000, channels=1, **options)
    np.testing.assert_allclose(decode_pcm(file.getvalue(), PcmFormat(kind, 16000)), expected, atol=1e-7)


def test_pcm_of_a_flag():
    assert read_pcm_format("s16le:16000:1") == PcmFormat("s16le", 16000, 1)
    assert read_pcm_format("f32le:48000") == PcmFormat("f32le", 48000, 1)
    for wrong in ("s16le", "mp3:16000", "s16le:0", "s16le:16000:0", "s16le:16000:1:1", "s16le:-1", "s16le:1²:1"):
        with pytest.raises(ValueError, match="must"):
            read_pcm_format(wrong)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"RIFF", "ends within"),
        (b"fLaC" + bytes(20), "no WAV file"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "without a format"),
        (b"RIFF\0\0\0\0WAVEfmt \4\0\0\0abcd", "damaged"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 2, 1, 16000, 0, 0, 4), "format 2, 4 bits"),
        (b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x7f", "more than"),
    ],
)
def test_what_is_no_wav_is_said(data, message):
    with pytest.raises(DataError, match=message):
        read_wav_header(io.BytesIO(data))
