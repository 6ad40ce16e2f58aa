"""The name of a clip inside of a shard, as a line of a manifest has it, and what stands for such a clip.

`train-000000.tar:1536:48211:9a3f01bc/a/x_1.flac` is the shard, the first byte and the bytes of the clip, the CRC-32 of
these bytes, and the clip's own name. `sub/a.zip:1234:48211`, the original's form, has neither checksum nor name. Of a
parquet file the two numbers are row group and row. Everything needed to read a clip is in its line, so a part of a
manifest, or two of them joined, is a manifest again.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

ENDINGS = ("tar", "zip", "parquet")
_NAME = re.compile(r"(.+?\.(?:tar|zip|parquet)):(\d{1,15}):(\d{1,15})(?::([0-9a-f]{8}))?(?:/(.+))?", re.DOTALL)
PLACE_BYTES = re.compile(rb"(.+?\.(?:tar|zip|parquet)):(\d{1,15}):(\d{1,15})", re.DOTALL)  # as names lie in a manifest
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a clip lies in a shard.

    Attributes:
        shard: file, relative to the root of the manifest.
        first: first byte; of a parquet file the row group.
        second: number of bytes; of a parquet file the row within its group.
        crc: CRC-32 of the bytes; None: not known.
        key: the clip's own name; empty: it has none.
    """

    shard: str
    first: int
    second: int
    crc: int | None = None
    key: str = ""

    @property
    def is_row(self) -> bool:
        """Whether the shard is a table."""
        return self.shard.endswith(".parquet")

    @property
    def title(self) -> str:
        """What the clip is called where nobody needs to find it: its own name, or else one made of its place."""
        return self.key or f"{self.shard.rpartition('.')[0]}-{self.first}"

    def name(self) -> str:
        """Return the name for a line of a manifest."""
        crc = "" if self.crc is None else f":{self.crc:08x}"
        return f"{self.shard}:{self.first}:{self.second}{crc}" + (f"/{self.key}" if self.key else "")


def parse_place(name: str) -> Place | None:
    """Return what a name of a manifest says; None: it names a file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    shard, first, second, crc, key = match.groups()
    return Place(shard, int(first), int(second), None if crc is None else int(crc, 16), key or "")


class Reader(Protocol):
    """What reads shards below a root (`w2v.shards.store`)."""

    root: str

    def read(self, place: Place) -> bytes: ...


@dataclass(frozen=True)
class Member:
    """A clip inside of a shard, in the place of a path."""

    place: Place
    store: Reader = field(repr=False, compare=False)

    def __str__(self) -> str:
        shard = shown(self.path)
        return f"{shard}/{self.place.key}" if self.place.key else f"{shard}:{self.place.first}"

    @property
    def path(self) -> str:
        """Where the shard is."""
        return joined(self.store.root, self.place.shard)

    def load(self) -> Loaded:
        """Read the clip.

        Raises:
            DataError: its bytes are damaged.
            ShardError: the shard is out of reach, or is another one than it was.
        """
        return Loaded(str(self), self.store.read(self.place))


@dataclass(frozen=True)
class Loaded:
    """The bytes of a clip, in the place of a path."""

    name: str
    content: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name

    def open(self) -> io.BytesIO:
        """Return the bytes as a file."""
        return io.BytesIO(self.content)


Source = str | Member | Loaded  # a file, or a clip inside of one


def is_url(path: str) -> bool:
    """Whether a path leads to a server, or wherever else `://` does."""
    return _SCHEME.match(path) is not None


def joined(root: str, name: str) -> str:
    """Return the path of a file below a root folder or address; what follows `?` in an address stays at the end.

    A name that is an address stands for itself.
    """
    if not is_url(root) or is_url(name):
        return name if is_url(name) else os.path.join(root, name)
    parts = urlsplit(root)
    path = f"{parts.path.rstrip('/')}/{name}" if name else parts.path
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def absolute(root: str, name: str) -> str:
    """Return a name below a root as one below `/`."""
    if is_url(root):
        return name if is_url(name) else f"{root.partition('?')[0].rstrip('/')}/{name}"
    return os.path.abspath(os.path.join(root, name))


def shown(path: str) -> str:
    """Return a path as messages show it: no signature, token or password of an address is ever printed."""
    if not is_url(path):
        return path
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
