"""Zip files with members that are stored: what the original's manifests name by the place of their bytes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from w2v.errors import DataError
from w2v.shards.parquet_file import ByteRanges, Seekable

LOCAL_HEADER = 30  # bytes before a member's name


@dataclass(frozen=True)
class ZipMember:
    """One file inside of a zip.

    Attributes:
        name: its path.
        offset: its first byte.
        size: number of bytes.
        crc: CRC-32 by the directory of the zip.
        reason: why it cannot be read in place; empty: it can.
    """

    name: str
    offset: int
    size: int
    crc: int
    reason: str = ""


def read_members(file: ByteRanges, where: str) -> Iterator[ZipMember]:
    """Yield the files of a zip.

    Differs from the original, which takes the number of characters of a name for the bytes of name and extra fields,
    and is wrong where a zip has 64-bit sizes, times or names that are not ASCII.

    Raises:
        DataError: it is no zip, or a damaged one.
    """
    try:
        with zipfile.ZipFile(Seekable(file)) as found:
            for info in found.infolist():
                if info.is_dir():
                    continue
                local = file.read(info.header_offset, info.header_offset + LOCAL_HEADER)
                if len(local) < LOCAL_HEADER or local[:4] != b"PK\x03\x04":
                    raise DataError(f"{where}: {info.filename}: no member begins at byte {info.header_offset}")
                name, extra = struct.unpack("<HH", local[26:30])
                offset = info.header_offset + LOCAL_HEADER + name + extra
                reason = "" if info.compress_type == zipfile.ZIP_STORED else "is deflated, not stored"
                reason = "is encrypted" if info.flag_bits & 1 else reason
                yield ZipMember(info.filename, offset, info.file_size, info.CRC, reason)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as e:
        raise DataError(f"{where}: not readable as a zip file: {e}") from e
