"""Lists the clips inside of shards that others have made: WebDataset's tar, stored zip, parquet of the hub."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2v.data.audio_files import AUDIO_ENDINGS
from w2v.errors import ConfigError, DataError
from w2v.files import atomic_path, make_folder
from w2v.shards.member import ENDINGS, Loaded, Place, is_url, joined, shown
from w2v.shards.parquet_file import Table
from w2v.shards.store import LocalFile, ShardStore
from w2v.shards.tar_file import Sample, read_files, samples
from w2v.shards.zip_file import read_members

if TYPE_CHECKING:
    from w2v.shards.remote import RemoteFile

SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
LABELS = ("ltr", "wrd", "phn", "km")
TEXTS = ("txt", "text", "transcript")
MOST_BRACES = 1_000_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Found:
    """A clip in a shard.

    Attributes:
        place: where it is.
        content: the audio file; None: there is none.
        reason: why it cannot be used; empty: nothing is known against it.
        labels: ending -> line, as our own shards have them.
        text: what is said, as others have it; None: nothing is said of that.
    """

    place: Place
    content: Loaded | None
    reason: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    text: str | None = None


@dataclass(frozen=True)
class Shards:
    """Shards below a root."""

    root: str
    names: list[str]


def find_shards(root: str, endings: tuple[str, ...] | None) -> Shards | None:
    """Return the shards that a root names: a folder or address with `--ext`, or names with braces; None: no shards.

    Raises:
        ConfigError: the name is of a kind that is not read.
        DataError: there are none.
    """
    if root.startswith("pipe:") or "::" in root:
        raise ConfigError(f"{root}: commands and joined lists are not read; name a folder, an address, or shards")
    is_shard = root.lower().endswith(tuple(f".{ending}" for ending in ENDINGS)) and not os.path.isdir(root)
    if is_shard or _BRACES.search(root):
        base, slash, name = root.rpartition("/")
        return Shards(base + slash if is_url(root) else os.path.realpath(base or "."), list(_expanded(name)))
    wanted = tuple(ending.lower().lstrip(".") for ending in endings or ())
    if not wanted or not all(ending.rpartition(".")[2] in (*ENDINGS, "gz") for ending in wanted):
        if is_url(root):
            raise ConfigError(f"{shown(root)}: --ext tar, zip or parquet says which shards are listed there")
        return None
    found = (
        _below(root) if is_url(root) else [p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file()]
    )
    ends = tuple(f".{ending}" for ending in wanted)
    names = sorted(name for name in found if name.lower().endswith(ends))
    if not names:
        raise DataError(f"no files {', '.join(f'*{end}' for end in ends)} under {shown(root)}")
    return Shards(root if is_url(root) else os.path.realpath(root), names)


def _below(url: str) -> list[str]:
    from w2v.shards.remote import list_below  # here, or every --help takes longer

    return list_below(url)


def unpack(shards: Shards, folder: Path) -> Shards:
    """Write compressed tars out as plain ones, so that clips in them can be found; others stay where they are.

    Raises:
        DataError: one cannot be read or written, or they are on a server.
    """
    if is_url(shards.root):
        raise DataError("--stream-only reads compressed shards of a disk; download them")
    names = []
    for name in shards.names:
        if not name.endswith(".gz"):
            raise DataError(f"{name}: --stream-only is for *.tar.gz; leave it out for others")
        names.append(name.removesuffix(".gz"))
        target = folder / names[-1]
        make_folder(target.parent)
        try:
            with gzip.open(joined(shards.root, name)) as packed, atomic_path(target) as part, open(part, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        except (OSError, EOFError, zlib.error) as e:
            raise DataError(f"{name}: cannot be unpacked: {e}") from e
    return Shards(os.path.realpath(folder), names)


def split_of(name: str) -> str | None:
    """Return the split that a shard's name tells, as on the hub; None: it tells none."""
    parts = re.split(r"[-._ 0-9/]+", name.lower())
    return next((split for split, words in SPLITS.items() if any(word in parts for word in words)), None)


def read_shard(store: ShardStore, name: str) -> Iterator[Found]:
    """Yield the clips of a shard in its order, read once from its first byte to its last one.

    Raises:
        DataError: it is damaged.
        ShardError: it is out of reach.
    """
    file = store.file(name)
    where = store.shown(name)
    readers: dict[str, Callable[[], Iterator[Found]]] = {
        "tar": lambda: _of_tar(file, name, where),
        "zip": lambda: _of_zip(file, name, where),
        "parquet": lambda: _of_parquet(file, name, where),
    }
    ending = name.rpartition(".")[2].lower()
    if ending not in readers:
        raise DataError(
            f"{where}: is compressed, so no clip in it can be found without reading all before it; "
            "--stream-only --dest FOLDER unpacks it"
        )
    yield from readers[ending]()


class _Sequential(io.RawIOBase):
    """A shard as a stream."""

    def __init__(self, file: LocalFile | RemoteFile) -> None:
        self._file, self._position = file, 0
        self._ahead: Any = memoryview(b"")

    def read(self, size: int | None = -1) -> bytes:
        parts, wanted = [], (1 << 62) if size is None or size < 0 else size
        while wanted > 0:
            if not len(self._ahead):
                self._ahead = memoryview(self._file.read(self._position, self._position + (8 << 20)))
                self._position += len(self._ahead)
                if not len(self._ahead):
                    break
            parts.append(bytes(self._ahead[:wanted]))
            self._ahead = self._ahead[len(parts[-1]) :]
            wanted -= len(parts[-1])
        return b"".join(parts)


def _of_tar(file: LocalFile | RemoteFile, name: str, where: str) -> Iterator[Found]:
    for sample in samples(read_files(_Sequential(file), where), where):
        yield _of_sample(sample, name, where)


def _of_sample(sample: Sample, name: str, where: str) -> Found:
    kind = next((kind for kind in sample.fields if kind.rpartition(".")[2] in AUDIO_ENDINGS), None)
    if kind is None:
        shown_fields = ", ".join(sample.fields)
        return Found(Place(name, 0, 0, None, sample.key), None, f"no audio among its fields {shown_fields}")
    audio = sample.fields[kind]
    place = Place(name, audio.offset, len(audio.content), audio.crc, audio.name)
    lines = {field: _line(file.content) for field, file in sample.fields.items() if field in (*LABELS, *TEXTS)}
    labels = {kind: line for kind, line in lines.items() if kind in LABELS}
    text = next((lines[kind] for kind in TEXTS if kind in lines), None)
    return Found(place, Loaded(f"{where}/{audio.name}", audio.content), "", labels, text)


def _line(content: bytes) -> str:
    return " ".join(content.decode("utf-8", "replace").split())


def _of_zip(file: LocalFile | RemoteFile, name: str, where: str) -> Iterator[Found]:
    for member in read_members(file, where):
        if member.name.rpartition(".")[2].lower() not in AUDIO_ENDINGS:
            continue
        place = Place(name, member.offset, member.size, member.crc, member.name)
        if member.reason:
            yield Found(place, None, f"{member.reason}; zip it with `zip -0`")
            continue
        content = bytes(file.read(member.offset, member.offset + member.size))
        is_whole = len(content) == member.size and zlib.crc32(content) == member.crc
        reason = "" if is_whole else "its bytes are damaged (CRC-32)"
        yield Found(place, Loaded(f"{where}/{member.name}", content), reason)


def _of_parquet(file: LocalFile | RemoteFile, name: str, where: str) -> Iterator[Found]:
    for row in Table(file, where).rows():
        key = os.path.basename(row.path) or f"{row.group}-{row.row}"
        if row.content is None:
            yield Found(Place(name, row.group, row.row, None, key), None, "the row holds no audio bytes")
            continue
        place = Place(name, row.group, row.row, zlib.crc32(row.content), key)
        text = None if row.text is None else " ".join(row.text.split())
        yield Found(place, Loaded(f"{where}/{key}", row.content), "", {}, text)


def _expanded(name: str) -> Iterator[str]:
    """Yield the names that braces stand for: `a-{000..002}.tar`."""
    match = _BRACES.search(name)
    if match is None:
        yield name
        return
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= MOST_BRACES:
        raise ConfigError(f"{match[0]}: must count upwards, over at most {MOST_BRACES} shards")
    for number in range(first, last + 1):
        yield from _expanded(f"{name[: match.start()]}{number:0{len(match[1])}d}{name[match.end() :]}")
