"""Whether a file of uncompressed audio holds what its header says.

A recorder that was switched off leaves the length it began with, and one that counts bytes in 32 bits begins anew after
37 hours of 16 kHz mono. libsndfile reads as much as the header says, without a word about the rest.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from w2v.data.guessed_length import begins_again
from w2v.errors import DataError
from w2v.shards.member import Loaded

BYTES_PER_VALUE = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
BYTES_PER_VALUE["DOUBLE"] = 8
RIFF = (b"RIFF", b"RF64", b"BW64")  # the latter two have lengths of 64 bits in a chunk of their own
TIGHT = ("AU", "NIST")  # containers without chunks, where nothing belongs behind the samples
COMPRESSED = ("FLAC", "OGG", "MP3", "MPEG")  # containers whose decoder finds the end
TOLERATED_BYTES = 1 << 20  # of pictures, titles and the like behind the samples of a file that has no chunks
TOLERATED_SHARE = 0.1
UNTOLD = 0xFFFFFFFF  # the length of a chunk that is not known, or stands elsewhere


def check_sizes(path: str | Loaded, container: str, subtype: str, channels: int, frames: int, sample_rate: int) -> None:
    """Check that no more samples lie in a file than its header tells of.

    Args:
        path: the file.
        container, subtype, channels, frames, sample_rate: what libsndfile read from its header.

    Raises:
        DataError: it holds more; both lengths are named.
    """
    width = BYTES_PER_VALUE.get(subtype, 0) * channels
    if not width or container in COMPRESSED:
        return
    told, held = frames * width, os.path.getsize(path) if isinstance(path, str) else len(path.content)
    if held <= told + 4096:
        return  # nearly all files: nothing further is read
    with open(path, "rb") if isinstance(path, str) else path.open() as file:
        rest = _behind_samples(file, held) if file.read(4) in RIFF else None
        too_much = held - told > max(TOLERATED_BYTES, TOLERATED_SHARE * told)
        if rest != 0 and not too_much and begins_again(file, told):
            raise DataError(f"{path}: is joined of several files, of which only the first would be read; re-encode it")
    if rest is None:
        rest = held - told if too_much or container in TIGHT else 0
    if rest > 0:
        seconds = (told + rest) / width / sample_rate
        raise DataError(
            f"{path}: its header tells of {frames / sample_rate:.1f} s, the file holds {seconds:.1f} s; repair it "
            "(sox --ignore-length FILE NEW), or cut the file where the recording ends"
        )


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield place, name and length of the chunks of a RIFF file of `size` bytes; the file stands behind their heads."""
    place, samples = 12, UNTOLD
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"ds64" and length >= 16:
            samples = struct.unpack("<8xQ", file.read(16))[0]
            file.seek(place + 8)
        length = samples if name == b"data" and length == UNTOLD else length
        yield place, name, length
        place += 8 + length + length % 2


def _behind_samples(file: BinaryIO, size: int) -> int | None:
    """Return the bytes behind the samples of a RIFF file that belong to no chunk; None where there are no samples."""
    behind = False
    for place, name, length in _chunks(file, size):
        if not all(32 <= byte < 127 for byte in name) or (behind and place + 8 + length > size + 1):
            return size - place if behind else None
        behind = behind or name == b"data"
        if name == b"data" and length in (0, UNTOLD):
            return 0  # written to a pipe: libsndfile reads to the end, or says that there is nothing (`is_untold`)
    return 0 if behind else None


def is_untold(path: str | Loaded) -> bool:
    """Whether a WAV file says that it has no samples although they follow.

    Programs that write to a pipe cannot come back to fill in the size.

    Args:
        path: the file, of which libsndfile has read that it holds no samples.
    """
    held = os.path.getsize(path) if isinstance(path, str) else len(path.content)
    with open(path, "rb") if isinstance(path, str) else path.open() as file:
        if file.read(4) != b"RIFF":
            return False
        for place, name, length in _chunks(file, held):
            if name == b"data":
                following = file.read(8)
                is_chunk = len(following) == 8 and all(32 <= byte < 127 for byte in following[:4])
                is_chunk = is_chunk and place + 16 + struct.unpack("<I", following[4:])[0] <= held + 1
                return not length and bool(following) and not is_chunk
    return False
