"""Tar files in WebDataset's layout: the files of a clip lie side by side and share their name up to its first dot.

Headers are made and read by Python's tarfile. The bytes follow from names and contents alone: no times, no owners.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from w2v.errors import DataError

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class File:
    """One file inside of a tar.

    Attributes:
        name: its path.
        offset: its first byte.
        content: its bytes.
    """

    name: str
    offset: int
    content: bytes = field(repr=False)

    @property
    def crc(self) -> int:
        return zlib.crc32(self.content)


@dataclass
class Sample:
    """Neighbouring files of one name.

    Attributes:
        key: path up to the first dot of the file name.
        fields: rest of the name, in small letters -> file.
    """

    key: str
    fields: dict[str, File]


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and field of a file in a tar; None: it belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, kind = base.partition(".")
    # Without a dot, or without a name before it at the top, it is none; below a folder the folder is the key.
    if not dot or not (stem or slash):
        return None
    return f"{folder}{slash}{stem}", kind.lower()


def header(name: str, size: int) -> bytes:
    """Return the blocks before a file's content; a long name takes several."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Return the zeros behind a file's content."""
    return bytes(-size % BLOCK)


def trailer(size: int) -> bytes:
    """Return the end of a tar of `size` bytes: two empty blocks, filled up to a record, as GNU tar does."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


def read_files(stream: Readable, where: str) -> Iterator[File]:
    """Yield the regular files of a tar, which is read from its first byte to its last one.

    Raises:
        DataError: it is compressed, cut, or damaged.
    """
    counted = _Counted(stream)
    start = counted.peek(6)
    kind = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None)
    if kind is not None:
        raise DataError(
            f"{where}: is compressed ({kind}), so no clip in it can be found without reading all before it; unpack it, "
            "or give --stream-only --dest FOLDER, which does"
        )
    try:
        with tarfile.open(fileobj=counted, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            archive: Any = tar
            for info in tar:
                if not info.isreg() or info.issparse():
                    continue
                file = tar.extractfile(info)
                content = b"" if file is None else file.read()
                if len(content) < info.size:
                    raise DataError(f"{where}: ends within {info.name}, at byte {info.offset_data + len(content)}")
                yield File(info.name, info.offset_data, content)
                archive.members = []  # or it remembers every file of the shard
            end = tar.offset
    except (tarfile.TarError, EOFError) as e:
        raise DataError(f"{where}: not readable as a tar file: {e}") from e
    # tarfile takes any damaged header for the end.
    if counted.has_header_at(end):
        raise DataError(f"{where}: damaged at byte {end}: no header of a file is there, and no end of the tar")


class _Counted(io.RawIOBase):
    """A stream that can be looked at before it is read, and remembers what it read last."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._ahead = b""
        self._tail = b""
        self._read = 0

    def peek(self, size: int) -> bytes:
        self._ahead = self._stream.read(size)
        return self._ahead

    def read(self, size: int | None = -1) -> bytes:
        wanted = -1 if size is None else size
        ahead, self._ahead = self._ahead, b""
        block = ahead + self._stream.read(wanted - len(ahead) if wanted >= 0 else -1)
        self._tail = (self._tail + block)[-4 * RECORD :]
        self._read += len(block)
        return block

    def has_header_at(self, offset: int) -> bool:
        """Whether anything but zeros lies in the block at `offset`, where the tar should have ended."""
        while self._read < offset + BLOCK and self.read(RECORD):
            pass
        place = len(self._tail) - (self._read - offset)
        return place >= 0 and any(self._tail[place : place + BLOCK])


def samples(files: Iterator[File], where: str) -> Iterator[Sample]:
    """Group neighbouring files into samples, as WebDataset does.

    Raises:
        DataError: a sample has one field twice.
    """
    sample: Sample | None = None
    for file in files:
        if file.name.startswith("__") and file.name.count("__") > 1:
            continue  # metadata of the shard
        found = split_name(file.name)
        if found is None:
            continue
        key, kind = found
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key, {})
        if kind in sample.fields:
            raise DataError(f"{where}: the sample {key!r} has the field {kind!r} twice")
        sample.fields[kind] = file
    if sample is not None:
        yield sample
