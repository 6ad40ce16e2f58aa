"""Manifests: which clips a data set holds, and how long each one is.

The file is the original's: line 1 names the root folder, every further line is `relative/path<TAB>samples`. Names
live in one flat byte buffer instead of a list of strings: a list of a million Python strings is copied into every
worker process as its reference counts change, a buffer never is. Audio is not opened here.

A name may lead into a shard (`w2v.shards.member`), on a disk or on a server; `NAME.shards.tsv` beside the manifest says
what each shard was when the manifest was written.

A manifest may come from anywhere, so its names stay inside its root folder: absolute ones and parts `..` are refused,
unless `--allow-outside-root` is given. Links are followed: who can put a link into the root could put the file there.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from w2v.array_types import IntArray
from w2v.data.audio_files import AUDIO_ENDINGS
from w2v.data.text_blocks import read_blocks
from w2v.data.text_file import read_lines, what_else
from w2v.errors import DataError
from w2v.files import write_atomically
from w2v.shards.member import Member, Source, absolute, is_url, joined, parse_place, shown
from w2v.shards.store import Identity, ShardStore

Bytes = npt.NDArray[np.uint8]

TAB, NEWLINE, RETURN, SPACE, SLASH, ZERO = b"\t\n\r /0"
MAX_DIGITS = 18  # what fits into int64 whatever the digits are
STRETCH_DIGITS = 15
STRETCH = re.compile(rf"(.+):(\d{{1,{STRETCH_DIGITS}}}):(\d{{1,{STRETCH_DIGITS}}})", re.ASCII | re.DOTALL)
SHARDS_ENDING = ".shards.tsv"
_IN_SHARD = re.compile(rb"\.(?:tar|zip|parquet):\d+:\d+")
_EMPTY = re.compile(rb":\d+:0+\t")
_NO_SAMPLES = re.compile(rb":(?!\d{1,%d}:\d{1,%d}\t)[-+]?[\d.]+:[-+]?[\d.]+\t" % (STRETCH_DIGITS, STRETCH_DIGITS))
_OTHER_STRETCH = re.compile(
    rb"\.(?:%s)(?!:\d{1,%d}:\d{1,%d}\t)[:@#][t=\d.,:;-]*\t"
    % ("|".join(AUDIO_ENDINGS).encode(), STRETCH_DIGITS, STRETCH_DIGITS),
    re.IGNORECASE,
)
_OUTSIDE = re.compile(rb"(?:^|[/\n])(\.\.)[/\t]|(?:^|\n)([a-zA-Z][a-zA-Z0-9+.-]*://)")


class NoClipsError(DataError):
    """A manifest is missing, or lists no clips."""


@dataclass(frozen=True)
class Manifest:
    """The clips of one split.

    Attributes:
        root: folder that the names are relative to.
        names: (total bytes,) uint8; all names, one after the other, as the file system spells them.
        offsets: (N + 1,) int64; name i is `names[offsets[i]:offsets[i + 1]]`.
        sizes: (N,) int64 samples per clip.
        source: the file it was read from, for messages; empty where it was not read from a file.
        parts: of joined manifests, the file of each and its number of clips; empty: all clips are of `source`.
        store: reads clips inside of shards; None: every clip is a file.
    """

    root: str
    names: Bytes
    offsets: IntArray
    sizes: IntArray
    source: str = ""
    parts: tuple[tuple[str, int], ...] = ()
    store: ShardStore | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, row: int) -> str:
        """Return the name of clip `row` as its line has it: the path relative to the root, or the place in a shard."""
        return os.fsdecode(self.names[self.offsets[row] : self.offsets[row + 1]].tobytes())

    def title(self, row: int) -> str:
        """Return what clip `row` is called: its path relative to the root or, inside of a shard, its name there."""
        name = self.name(row)
        place = parse_place(name) if self.store is not None else None
        return name if place is None else place.title

    def path(self, row: int) -> str:
        """Return the path of clip `row` for messages; an absolute name stands for itself."""
        name = self.name(row)
        place = parse_place(name) if self.store is not None else None
        return shown(joined(self.root, name if place is None else f"{place.shard}/{place.title}"))

    def absolute_name(self, row: int) -> str:
        """Return the name of clip `row` in a manifest whose root is `/`."""
        return absolute(self.root, self.name(row))

    def source_of(self, row: int) -> Source:
        """Return what clip `row` can be read from.

        Raises:
            DataError: it is a stretch of that (`stretch`).
        """
        source, start, _ = self.stretch(row)
        if start is not None:
            raise DataError(f"{self.line(row)}: names a stretch of a file, where a whole one is needed")
        return source

    def stretch(self, row: int) -> tuple[Source, int | None, int | None]:
        """Return the file of clip `row`, and the first sample and the samples of the stretch of it that the clip is.

        The original's form of such a name is `path:offset:frames`, in samples of the file; None and None: all of it.
        """
        name = self.name(row)
        place = parse_place(name) if self.store is not None else None
        match = STRETCH.fullmatch(name if place is None else place.key)
        start, frames = (None, None) if match is None else (int(match[2]), int(match[3]))
        if place is None or self.store is None:
            return os.path.join(self.root, name if match is None else match[1]), start, frames
        return Member(place if match is None else replace(place, key=match[1]), self.store), start, frames

    @property
    def identities(self) -> Mapping[str, Identity]:
        """What the shards were that clips lie in."""
        return {} if self.store is None else self.store.identities

    def is_remote(self, row: int) -> bool:
        """Whether clip `row` lies on a server."""
        source = self.stretch(row)[0]
        return isinstance(source, Member) and is_url(source.path)

    def expect(self, rows: Iterable[int]) -> None:
        """Begin to fetch clips that will soon be read, where they come from a server."""
        if self.store is not None:
            self.store.expect([source.place for row in rows if isinstance(source := self.stretch(row)[0], Member)])

    def take(self, rows: Sequence[int]) -> Manifest:
        """Return a manifest of some clips, in the order of `rows`."""
        names = [self.names[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        offsets = np.cumsum([0, *map(len, names)], dtype=np.int64)
        flat = np.concatenate(names) if names else self.names[:0]
        return replace(self, names=flat, offsets=offsets, sizes=self.sizes[np.asarray(rows, dtype=np.int64)])

    def line(self, row: int) -> str:
        """Return `file:line` of clip `row`, for messages."""
        for source, count in self.parts:
            if row < count:
                return f"{source}:{row + 2}"
            row -= count
        return f"{self.source}:{row + 2}"

    def check_titles(self) -> None:
        """Refuse two clips inside of shards that are called alike, where what belongs to a clip is found by its name.

        Raises:
            DataError: there are some; it names both lines.
        """
        for first, second in equal_pairs(self.title, len(self) if self.store is not None else 0):
            if self.name(first) != self.name(second):
                raise DataError(
                    f"{self.line(first)} and {self.line(second)}: two clips are called {self.title(first)!r}, and "
                    "would be taken for each other; change one of the names, which stand behind the numbers"
                )

    def check_root(self) -> None:
        """Check that the root folder exists; a server is asked by who reads from it.

        Raises:
            DataError: it does not; the manifest was most likely written on another machine.
        """
        if not is_url(self.root) and not os.path.isdir(self.root):
            raise DataError(f"{self.source}:1: the root folder {self.root!r} does not exist; line 1 names it")


def _store_of(root: str, names: Bytes, where: str) -> ShardStore | None:
    """Return what reads the shards that a manifest names; None: it names none.

    Raises:
        DataError: clips on a server are not inside of shards, or the file about the shards is damaged.
    """
    in_shards = _IN_SHARD.search(names.data) is not None
    if is_url(root) and not in_shards:
        raise DataError(f"{where}:1: {shown(root)} is an address, below which only clips inside of shards are read")
    return ShardStore(root, read_identities(where)) if in_shards else None


def shards_path(manifest: str | Path) -> Path:
    """Return the file about the shards of a manifest."""
    name = str(manifest)
    return Path(name.removesuffix(".gz").removesuffix(".tsv") + SHARDS_ENDING)


def read_identities(manifest: str | Path) -> dict[str, Identity]:
    """Read what the shards of a manifest were: lines of shard, bytes, clips and, where a server gave one, its ETag.

    Returns:
        nothing, where there is no such file.

    Raises:
        DataError: a line breaks the form.
    """
    path, found = shards_path(manifest), {}
    if not path.is_file():
        return {}
    for number, line in enumerate(read_lines(path, "list of shards"), 1):
        shard, *values = line.split("\t")
        if len(values) not in (2, 3) or not all(value.isascii() and value.isdigit() for value in values[:2]):
            raise DataError(f"{path}:{number}: must be shard TAB bytes TAB clips, got {line[:200]!r}")
        found[shard] = Identity(int(values[0]), values[2] if len(values) == 3 else "", int(values[1]))
    return found


def write_identities(manifest: str | Path, shards: Mapping[str, Identity], names: Iterable[str]) -> int:
    """Write what the shards are that clips of these names lie in, as `read_identities` reads it; return how many.

    Args:
        manifest: path of the manifest.
        shards: what is known of each shard; those without a clip are left out, and clips are counted here.
        names: of the clips that the manifest lists.

    Raises:
        DataError: the file cannot be written.
    """
    counts = Counter(place.shard for name in names if (place := parse_place(name)) is not None)
    lines = [
        "\t".join([shard, str(found.size), str(counts[shard]), *filter(None, [found.tag])])
        for shard, found in shards.items()
        if counts[shard]
    ]
    write_atomically(shards_path(manifest), "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def equal_pairs(value_of: Callable[[int], Hashable], count: int) -> Iterator[tuple[int, int]]:
    """Yield rows of equal values, by eight bytes for each of `count` rows; a table of strings takes five hundred."""
    marks = np.fromiter((hash(value_of(row)) for row in range(count)), dtype=np.int64, count=count)
    order = np.argsort(marks, kind="stable")
    for place in np.flatnonzero(np.diff(marks[order]) == 0):
        first, second = (int(row) for row in order[place : place + 2])
        if value_of(first) == value_of(second):
            yield first, second


def make_manifest(root: str, names: Iterable[str], sizes: Iterable[int], source: str = "") -> Manifest:
    """Return a manifest of clips held in memory."""
    encoded = [os.fsencode(name) for name in names]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(name) for name in encoded], out=offsets[1:])
    buffer = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return Manifest(root, buffer, offsets, np.array(list(sizes), dtype=np.int64).reshape(-1), source)


def join_manifests(parts: Sequence[Manifest]) -> Manifest:
    """Return the clips of several manifests, one after the other.

    Where the root folders differ, names become absolute paths.
    """
    if len(parts) == 1:
        return parts[0]
    roots = {part.root for part in parts}
    sizes = np.concatenate([part.sizes for part in parts])
    source, counts = (
        ", ".join(part.source for part in parts),
        tuple(item for part in parts for item in part.parts or [(part.source, len(part))]),
    )
    stores = [part.store for part in parts if part.store is not None]
    if len(roots) > 1:
        for part in parts:
            part.check_root()  # while a message can name the manifest
            if is_url(part.root) and "?" in part.root:
                # What stands behind it belongs to one server, and is no part of a name.
                raise DataError(
                    f"{part.source}:1: {shown(part.root)} has a part `?`, which goes for one root only, but the other "
                    f"manifests have other roots ({', '.join(sorted(shown(root) for root in roots - {part.root}))})"
                )
        joint = make_manifest(
            "/", (part.absolute_name(row) for part in parts for row in range(len(part))), sizes, source
        )
        known = {absolute(store.root, shard): found for store in stores for shard, found in store.identities.items()}
        store = ShardStore("/", known, stores[0].prefetch_bytes) if stores else None
        return replace(joint, parts=counts, store=store)
    shifts = np.cumsum([0, *(len(part.names) for part in parts)])
    offsets = [part.offsets[:-1] + shift for part, shift in zip(parts, shifts, strict=False)]
    names = np.concatenate([part.names for part in parts])
    known = {shard: found for store in stores for shard, found in store.identities.items()}
    store = ShardStore(parts[0].root, known, stores[0].prefetch_bytes) if stores else None
    return Manifest(parts[0].root, names, np.concatenate([*offsets, shifts[-1:]]), sizes, source, counts, store)


def read_manifest(path: str | Path, *, allow_outside_root: bool = False) -> Manifest:
    """Read a manifest, plain or gzipped; a million lines take less than a second.

    Differs from the original: names that lead out of the root (absolute, or with a part `..`) are refused, and
    blank lines at the end are allowed.

    Args:
        path: the file.
        allow_outside_root: take names that lead out of the root, too (`--allow-outside-root`).

    Raises:
        NoClipsError: the file is missing, or lists no clips.
        DataError: a line breaks the format; named as file:line.
    """
    where = str(path)
    if not os.path.exists(where):
        raise NoClipsError(f"cannot read the manifest {where}: No such file or directory")
    root = ""
    names = bytearray()  # grows in place, so that no name is ever held twice
    lengths: list[IntArray] = [np.zeros(1, dtype=np.int64)]
    sizes: list[IntArray] = []
    line, rest = 1, b""
    for block in read_blocks(where, "manifest"):
        # Blank lines are the end of the file, or else a fault of the next block.
        text = (rest + block).rstrip(b"\r\n ")
        rest = (rest + block)[len(text) :]
        if text:
            rest = rest.partition(b"\n")[2]  # the end of the last line
        if line == 1:
            if other := what_else(text):
                raise DataError(f"{where}:1: the manifest must be text, got {other}")
            first, _, text = text.removeprefix(codecs.BOM_UTF8).partition(b"\n")
            root = _read_root(where, first)
            line += 1
        if text:
            rows = _parse(where, line, text + b"\n", allow_outside_root=allow_outside_root)
            names += rows.names.data
            lengths.append(rows.lengths)
            sizes.append(rows.sizes)
            line += len(rows.sizes)
    if not sizes:
        root = root or _read_root(where, b"")
        raise NoClipsError(f"{where}: lists no clips; only its first line, the root folder, is there")
    offsets = np.cumsum(np.concatenate(lengths))
    flat = np.frombuffer(names, np.uint8)
    return Manifest(root, flat, offsets, np.concatenate(sizes), where, store=_store_of(root, flat, where))


def write_manifest(
    path: str | Path,
    root: str,
    names: Sequence[str],
    sizes: Sequence[int],
    shards: Mapping[str, Identity] | None = None,
) -> None:
    """Write a manifest in the original's format; the file appears whole or not at all.

    Args:
        path: of the file.
        root, names, sizes: as in `Manifest`.
        shards: what the shards are that clips may lie in, for the list beside the manifest; without any, none is left.

    Raises:
        DataError: the file cannot be written, or a name holds a tab or a line break.
    """
    lines = [root]
    for name, size in zip(names, sizes, strict=True):
        if not is_listable(name):
            raise DataError(f"{path}: a manifest cannot hold the name {name!r}; rename the file")
        lines.append(f"{name}\t{int(size)}")
    if shards:
        write_identities(path, shards, names)
    else:
        with suppress(OSError):
            shards_path(path).unlink()  # of another manifest of that name
    write_atomically(path, os.fsencode("\n".join(lines) + "\n"))


def stretch_name(name: str, start: int, frames: int) -> str:
    """Return the name of a clip that is a stretch of a file: the original's form, in samples of the file."""
    return f"{name}:{start}:{frames}"


def is_listable(name: str) -> bool:
    """Whether a line of a manifest can hold this name."""
    return not any(mark in name for mark in "\t\n\r")


def _read_root(where: str, line: bytes) -> str:
    root = os.fsdecode(line.rstrip(b"\r"))
    if not root.strip() or "\t" in root or "\0" in root:
        raise DataError(f"{where}:1: the first line must name the root folder, got {root!r}")
    return root


@dataclass(frozen=True)
class _Rows:
    """Clips of a block: their names one after the other, the bytes of each, and their samples."""

    names: Bytes
    lengths: IntArray
    sizes: IntArray


@dataclass(frozen=True)
class _Block:
    """Whole lines of a file, and where they start and end."""

    where: str
    line: int
    content: bytes
    text: Bytes
    starts: IntArray
    ends: IntArray

    def refuse(self, row: int, rule: str, end: IntArray | None = None) -> NoReturn:
        stop = (self.ends if end is None else end)[row]
        found = os.fsdecode(self.content[self.starts[row] : stop])
        shown = found if len(found) <= 200 else found[:200] + "..."
        raise DataError(f"{self.where}:{self.line + row}: {rule} {shown!r}")

    def row(self, place: int) -> int:
        """Return the row of a byte."""
        return int(np.searchsorted(self.starts, place, "right")) - 1


def _parse(where: str, line: int, content: bytes, *, allow_outside_root: bool) -> _Rows:
    """Read lines that begin with number `line`."""
    text = np.frombuffer(content, dtype=np.uint8)
    newlines = np.flatnonzero(text == NEWLINE)
    starts = np.concatenate([[0], newlines[:-1] + 1])
    block = _Block(where, line, content, text, starts, _strip_right(text, newlines))
    tabs = _one_tab_per_line(block)
    _check_names(block, tabs)
    if not allow_outside_root:
        _check_inside(block, tabs)
    _check_stretches(block, tabs)
    sizes = _parse_sizes(block, tabs + 1)
    edges = np.zeros(len(text) + 1, dtype=np.int8)
    edges[starts] += 1
    edges[tabs] -= 1
    inside = np.cumsum(edges[:-1], dtype=np.int8).view(bool)
    return _Rows(text[inside], tabs - starts, sizes)


def _strip_right(text: Bytes, ends: IntArray) -> IntArray:
    ends = ends.copy()
    while True:
        last = text[ends - 1]
        blank = (last == RETURN) | (last == SPACE)
        if not blank.any():
            return ends
        ends[blank] -= 1


def _one_tab_per_line(block: _Block) -> IntArray:
    tabs = np.flatnonzero(block.text == TAB)
    if len(tabs) != len(block.starts) or (tabs < block.starts).any() or (tabs >= block.ends).any():
        first, after = np.searchsorted(tabs, block.starts), np.searchsorted(tabs, block.ends)
        row = int(np.flatnonzero(after - first != 1)[0])
        block.refuse(row, f"must be path TAB samples, with one tab, got {after[row] - first[row]} tabs in")
    return tabs


def _check_names(block: _Block, tabs: IntArray) -> None:
    empty = np.flatnonzero(block.starts == tabs)
    if len(empty):
        block.refuse(int(empty[0]), "has no path:", tabs)
    nul = block.content.find(b"\0")
    if nul >= 0:
        block.refuse(block.row(nul), "holds a zero byte:")


def _check_inside(block: _Block, tabs: IntArray) -> None:
    wrong = np.flatnonzero(block.text[block.starts] == SLASH)[:1].tolist()
    # A part `..` is two dots between delimiters; `a..b` is an ordinary name.
    is_suspect = b".." in block.content or b"://" in block.content
    outside = _OUTSIDE.search(block.content) if is_suspect else None
    if outside is not None:
        wrong.append(block.row(outside.start(outside.lastindex or 0)))
    if wrong:
        block.refuse(min(wrong), "must stay inside the root folder (or give --allow-outside-root), got", tabs)


def _check_stretches(block: _Block, tabs: IntArray) -> None:
    if not any(mark in block.content for mark in (b":", b"@", b"#")):
        return
    wrong = _NO_SAMPLES.search(block.content) or _OTHER_STRETCH.search(block.content)
    if wrong is not None:
        block.refuse(
            block.row(wrong.start()), "path:offset:frames must be whole numbers of samples, 0 or more, got", tabs
        )
    empty = _EMPTY.search(block.content)
    if empty is not None:
        block.refuse(block.row(empty.start()), "path:offset:frames must have at least one frame, got", tabs)


def _parse_sizes(block: _Block, starts: IntArray) -> IntArray:
    ends = block.ends
    widths = ends - starts
    sizes = np.zeros(len(starts), dtype=np.int64)
    wrong = (widths < 1) | (widths > MAX_DIGITS)
    # One pass per decimal place, over all lines at once.
    for place in range(min(int(widths.max()), MAX_DIGITS)):
        here = widths > place
        digits = block.text[np.minimum(starts + place, ends - 1)].astype(np.int64) - ZERO
        wrong |= here & ((digits < 0) | (digits > 9))
        sizes = np.where(here, sizes * 10 + digits, sizes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = os.fsdecode(block.content[starts[row] : ends[row]])
        block.refuse(row, f"the number of samples must be a whole number >= 0, got {found[:30]!r} in")
    return sizes
