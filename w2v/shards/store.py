"""Reads the bytes of clips out of shards, in whichever process asks for them.

Files, connections and threads are opened by the first clip that a process reads. A store that travels to another
process, by fork or in a pickle, begins anew there: nothing of a server's connection survives a fork.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from w2v.errors import DataError, ShardError
from w2v.shards.member import Place, is_url, joined, shown
from w2v.shards.parquet_file import RowGroups
from w2v.shards.prefetch import Prefetcher
from w2v.system import read_at

if TYPE_CHECKING:
    from w2v.shards.remote import RemoteFile

PREFETCH_BYTES = 256 << 20
MOST_OPEN = 64  # shards; closing the one that was used least costs an `open` when it comes again
MAGIC = {b"RIFF": "wav", b"RF64": "wav", b"fLaC": "flac", b"OggS": "ogg"}


@dataclass(frozen=True)
class Identity:
    """What a shard was when its manifest was written.

    Attributes:
        size: in bytes.
        tag: a server's word for its content (ETag); empty: none.
        clips: how many of its clips the manifest lists.
    """

    size: int
    tag: str = ""
    clips: int = 0


class LocalFile:
    """A shard on a disk; closed when nobody reads it any more."""

    tag = ""

    def __init__(self, path: str) -> None:
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as this object
        except OSError as e:
            raise ShardError(f"{path}: the shard cannot be read: {e.strerror or e}") from e
        self._path = path
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`; fewer where the file ends."""
        parts = []
        end = min(end, self.size)  # or memory would be taken for what a manifest promises
        while start < end:
            try:
                part = read_at(self._file.fileno(), end - start, start)
            except OSError as e:
                raise ShardError(f"{self._path}: the shard cannot be read: {e.strerror or e}") from e
            if not part:
                break
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass
class _Opened:
    """What one process has open."""

    pid: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    files: OrderedDict[str, LocalFile | RemoteFile] = field(default_factory=OrderedDict)
    prefetcher: Prefetcher | None = None
    rows: RowGroups | None = None


class ShardStore:
    """The shards below one root.

    Args:
        root: folder or address.
        identities: shard -> what it was when its manifest was written; reading another one is refused.
        prefetch_bytes: most bytes of shards on a server that a process holds ahead of need.
    """

    def __init__(
        self, root: str, identities: Mapping[str, Identity] | None = None, prefetch_bytes: int = PREFETCH_BYTES
    ) -> None:
        self.root = root
        self.identities = dict(identities or {})
        self.prefetch_bytes = prefetch_bytes
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def is_remote(self, shard: str) -> bool:
        """Whether a shard lies on a server."""
        return is_url(joined(self.root, shard))

    def shown(self, shard: str) -> str:
        """Return the path of a shard for messages."""
        return shown(joined(self.root, shard))

    def file(self, shard: str) -> LocalFile | RemoteFile:
        """Return a shard, opened.

        Raises:
            ShardError: it is out of reach, or is not the one that the manifest was written for.
        """
        found = self._open(shard)
        self._check(shard, found)
        return found

    def expect(self, places: Sequence[Place]) -> None:
        """Begin to fetch clips that will be read soon, in about this order. Only clips on a server are."""
        remote = {shard for shard in {place.shard for place in places} if self.is_remote(shard)}
        ranges = [
            (place.shard, place.first, place.first + place.second)
            for place in places
            if place.shard in remote and not place.is_row
        ]
        if ranges:
            self._prefetcher().expect(ranges)

    def read(self, place: Place) -> bytes:
        """Return the bytes of a clip.

        Raises:
            DataError: they are damaged, or cannot be those of a clip.
            ShardError: the shard is out of reach, or is another one than it was.
        """
        if place.is_row:
            content: bytes | memoryview = self._rows().read(place.shard, place.first, place.second)
        elif self.is_remote(place.shard):
            content = self._prefetcher().take(place.shard, place.first, place.first + place.second)
        else:
            content = self._fetch(place.shard, place.first, place.first + place.second)
        where = f"{self.shown(place.shard)}:{place.first}:{place.second} {place.key}".rstrip()
        if not place.is_row and len(content) < place.second:
            raise DataError(f"{where}: the shard ends {place.second - len(content)} bytes before the end of the clip")
        if place.crc is not None and zlib.crc32(content) != place.crc:
            raise DataError(f"{where}: its bytes are not those that its manifest was written for (CRC-32)")
        if place.shard.endswith(".zip") and bytes(content[:4]) not in MAGIC:
            raise DataError(
                f"{where}: no audio begins there (got {bytes(content[:4])!r}); only members that are stored, not "
                "deflated, can be read"
            )
        return bytes(content)

    def _open(self, shard: str) -> LocalFile | RemoteFile:
        opened = self._here()
        with opened.lock:
            found = opened.files.pop(shard, None)
            if found is None:
                path = joined(self.root, shard)
                found = _remote(path) if is_url(path) else LocalFile(path)
            opened.files[shard] = found
            while len(opened.files) > MOST_OPEN:
                opened.files.popitem(last=False)
            return found

    def _fetch(self, shard: str, start: int, end: int) -> bytes | memoryview:
        found = self._open(shard)
        content = found.read(start, end)
        # Behind the read: the answer tells what the shard is, so a server is not asked for that first.
        self._check(shard, found)
        return content

    def _check(self, shard: str, found: LocalFile | RemoteFile) -> None:
        known = self.identities.get(shard)
        if known is None:
            return
        size, tag = found.size, found.tag
        if (size is not None and size != known.size) or (tag and known.tag and tag != known.tag):
            was, now = (f"{known.size} bytes", f"{size} bytes") if size != known.size else (known.tag, tag)
            raise ShardError(
                f"{self.shown(shard)}: has changed since its manifest was written (was {was}, is {now}); bring the "
                "shard back, or write the manifest anew with w2v-manifest"
            )

    def _here(self) -> _Opened:
        opened = self._opened
        if opened is None or opened.pid != os.getpid():
            opened = self._opened = _Opened(os.getpid())
        return opened

    def _prefetcher(self) -> Prefetcher:
        opened = self._here()
        with opened.lock:
            if opened.prefetcher is None:
                opened.prefetcher = Prefetcher(self._fetch, self.prefetch_bytes)
            return opened.prefetcher

    def _rows(self) -> RowGroups:
        opened = self._here()
        with opened.lock:
            if opened.rows is None:
                opened.rows = RowGroups(self.file, self.shown)
            return opened.rows


def _remote(url: str) -> RemoteFile:
    from w2v.shards.remote import RemoteFile  # here: what speaks to servers takes a sixth of a program's start

    return RemoteFile(url)
