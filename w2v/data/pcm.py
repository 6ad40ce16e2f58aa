"""Samples from a pipe: raw, or as a WAV file whose header cannot know how long it is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from w2v.errors import DataError

Samples = npt.NDArray[np.float32]

# Name, as ffmpeg has it -> numpy's type, and what brings it to [-1, 1]. 24 bits are read as the upper bytes of 32.
KINDS = {
    "s16le": ("<i2", 2.0**-15),
    "s16be": (">i2", 2.0**-15),
    "s24le": ("<i4", 2.0**-31),
    "s32le": ("<i4", 2.0**-31),
    "s32be": (">i4", 2.0**-31),
    "f32le": ("<f4", 1.0),
    "f32be": (">f4", 1.0),
    "f64le": ("<f8", 1.0),
    "u8": ("u1", 2.0**-7),
}
SIZES = {kind: 3 if kind == "s24le" else np.dtype(code).itemsize for kind, (code, _) in KINDS.items()}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OF_WAV = {(_PCM, 8): "u8", (_PCM, 16): "s16le", (_PCM, 24): "s24le", (_PCM, 32): "s32le", (_FLOAT, 32): "f32le"}
_OF_WAV[_FLOAT, 64] = "f64le"
LONGEST_HEADER = 1 << 20  # bytes of other chunks before the samples


@dataclass(frozen=True)
class PcmFormat:
    """How raw samples are laid out.

    Attributes:
        kind: one of `KINDS`.
        sample_rate: in Hz.
        channels: number of channels, interleaved.
    """

    kind: str
    sample_rate: int
    channels: int = 1

    @property
    def size(self) -> int:
        """Bytes of one sample of all channels."""
        return SIZES[self.kind] * self.channels


def read_pcm_format(value: str | PcmFormat) -> PcmFormat:
    """Parse `s16le:16000:1` (kind, rate, channels; one channel where it is left out), for a flag.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, PcmFormat):
        return value
    kind, *numbers = value.split(":")
    if kind not in KINDS or not 1 <= len(numbers) <= 2 or not all(n.isascii() and n.isdigit() for n in numbers):
        raise ValueError(f"must be KIND:RATE:CHANNELS with a kind of {', '.join(KINDS)}, got {value!r}")
    rate, channels = int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 1
    if not 100 <= rate <= 1_000_000 or not 1 <= channels <= 64:
        raise ValueError(f"must have a rate from 100 to 1000000 Hz and 1 to 64 channels, got {value!r}")
    return PcmFormat(kind, rate, channels)


class PcmDecoder:
    """Turns bytes into samples of one channel, whatever the sizes of the pieces; an odd byte waits for the next one."""

    def __init__(self, format: PcmFormat) -> None:
        self.format = format
        self._rest = b""

    def push(self, data: bytes) -> Samples:
        """Return (S,) the mean of the channels of the samples that are complete."""
        data = self._rest + data
        whole = len(data) // self.format.size * self.format.size
        self._rest = data[whole:]
        return decode_pcm(data[:whole], self.format)


def decode_pcm(data: bytes, format: PcmFormat) -> Samples:
    """Return (S,) float32, the mean of the channels, of bytes that hold whole samples."""
    code, scale = KINDS[format.kind]
    if format.kind == "s24le":
        triples = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(triples), 4), np.uint8)
        wide[:, 1:] = triples
        values = wide.view(code).reshape(-1)
    else:
        values = np.frombuffer(data, code)
    samples = values.astype(np.float32)
    if format.kind == "u8":
        samples -= 128
    samples *= np.float32(scale)
    return samples if format.channels == 1 else samples.reshape(-1, format.channels).mean(axis=1)


def read_wav_header(stream: BinaryIO) -> tuple[PcmFormat, int | None]:
    """Read a WAV file up to its first sample.

    Returns:
        the format, and the bytes of samples that follow; None: until the stream ends, as programs write that do not
        know how much is to come.

    Raises:
        DataError: it is no WAV file, or none of whole numbers or floats.
    """
    start = _exactly(stream, 12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
        raise DataError("standard input is no WAV file; raw samples need --pcm, such as --pcm s16le:16000:1")
    format: PcmFormat | None = None
    skipped = 0
    while True:
        name, size = struct.unpack("<4sI", _exactly(stream, 8))
        if name == b"data":
            if format is None:
                raise DataError("standard input: a WAV file without a format")
            return format, None if size in (0, 0xFFFFFFFF) or size >= 0x7FFFF000 else size
        skipped += size + size % 2
        if skipped > LONGEST_HEADER:
            raise DataError(f"standard input: a WAV file with more than {LONGEST_HEADER} bytes before its samples")
        chunk = _exactly(stream, size + size % 2)
        if name == b"fmt ":
            format = _wav_format(chunk)


def _wav_format(chunk: bytes) -> PcmFormat:
    if len(chunk) < 16:
        raise DataError("standard input: a WAV file with a damaged format")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if code == _EXTENSIBLE and len(chunk) >= 26:
        (code,) = struct.unpack("<H", chunk[24:26])
    kind = _OF_WAV.get((code, bits))
    if kind is None or not channels or not rate:
        raise DataError(
            f"standard input: a WAV file of format {code}, {bits} bits, {channels} channels, {rate} Hz; pipe 16-bit PCM"
        )
    return PcmFormat(kind, rate, channels)


def byte_blocks(stream: BinaryIO, size: int | None, block: int = 1 << 16) -> Iterator[bytes]:
    """Yield what a stream holds as soon as it comes.

    Args:
        stream: a pipe.
        size: most bytes to be read; None: until it ends.
        block: most bytes at once.
    """
    read = getattr(stream, "read1", stream.read)
    while size is None or size > 0:
        data = read(block if size is None else min(block, size))
        if not data:
            return
        if size is not None:
            size -= len(data)
        yield data


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise DataError(
                "standard input ends within the header of a WAV file" if data else "standard input is empty"
            )
        data += more
    return data
