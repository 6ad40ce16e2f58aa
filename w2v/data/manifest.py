"""Manifests: which clips a data set holds, and how long each one is.

The file is the original's: line 1 names the root folder, every further line is `relative/path<TAB>samples`. Names
live in one flat byte buffer instead of a list of strings: a list of a million Python strings is copied into every
worker process as its reference counts change, a buffer never is. Audio is not opened here.

A manifest may come from anywhere, so its names stay inside its root folder: absolute ones and parts `..` are refused,
unless `--allow-outside-root` is given. Links are followed: who can put a link into the root could put the file there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from w2v.data.text_file import write_atomically
from w2v.errors import DataError

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

TAB, NEWLINE, RETURN, SPACE, DOT, SLASH, ZERO = b"\t\n\r ./0"
MAX_DIGITS = 18  # what fits into int64 whatever the digits are


@dataclass(frozen=True)
class Manifest:
    """The clips of one split.

    Attributes:
        root: folder that the names are relative to.
        names: (total bytes,) uint8; all names, one after the other, as the file system spells them.
        offsets: (N + 1,) int64; name i is `names[offsets[i]:offsets[i + 1]]`.
        sizes: (N,) int64 samples per clip.
        source: the file it was read from, for messages; empty where it was not read from a file.
    """

    root: str
    names: Bytes
    offsets: Ints
    sizes: Ints
    source: str = ""

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, row: int) -> str:
        """Return the path of clip `row`, relative to the root."""
        return os.fsdecode(self.names[self.offsets[row] : self.offsets[row + 1]].tobytes())

    def path(self, row: int) -> str:
        """Return the path under which clip `row` can be opened; an absolute name stands for itself."""
        return os.path.join(self.root, self.name(row))

    def line(self, row: int) -> str:
        """Return `file:line` of clip `row`, for messages."""
        return f"{self.source}:{row + 2}"

    def check_root(self) -> None:
        """Check that the root folder exists.

        Raises:
            DataError: it does not; the manifest was most likely written on another machine.
        """
        if not os.path.isdir(self.root):
            raise DataError(f"{self.source}:1: the root folder {self.root!r} does not exist; line 1 names it")


def make_manifest(root: str, names: Iterable[str], sizes: Iterable[int], source: str = "") -> Manifest:
    """Return a manifest of clips held in memory."""
    encoded = [os.fsencode(name) for name in names]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(name) for name in encoded], out=offsets[1:])
    buffer = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return Manifest(root, buffer, offsets, np.array(list(sizes), dtype=np.int64).reshape(-1), source)


def read_manifest(path: str | Path, *, allow_outside_root: bool = False) -> Manifest:
    """Read a manifest; a million lines take about a second.

    Differs from the original: names that lead out of the root (absolute, or with a part `..`) are refused, and
    blank lines at the end are allowed.

    Args:
        path: the file.
        allow_outside_root: take names that lead out of the root, too (`--allow-outside-root`).

    Raises:
        DataError: the file is missing, lists no clips, or a line breaks the format; named as file:line.
    """
    where = str(path)
    try:
        text = np.fromfile(where, dtype=np.uint8)
    except OSError as e:
        raise DataError(f"cannot read the manifest {where}: {e.strerror or e}") from e
    # One newline at the very end, whatever the file ends in: every line then ends at a newline.
    end = len(text)
    while end and text[end - 1] in (NEWLINE, RETURN, SPACE, TAB):
        end -= 1
    text = np.append(text[:end], np.uint8(NEWLINE))
    newlines = np.flatnonzero(text == NEWLINE)
    root = os.fsdecode(text[: newlines[0]].tobytes()).rstrip("\r")
    if "\t" in root or "\0" in root or not root.strip():
        raise DataError(f"{where}:1: the first line must name the root folder, got {root!r}")
    if len(newlines) == 1:
        raise DataError(f"{where}: lists no clips; only its first line, the root folder, is there")
    starts, ends = newlines[:-1] + 1, _strip_right(text, newlines[1:])
    tabs = _one_tab_per_line(where, text, starts, ends)
    _check_names(where, text, starts, tabs)
    if not allow_outside_root:
        _check_inside(where, text, starts, tabs)
    sizes = _parse_sizes(where, text, tabs + 1, ends)
    names, offsets = _gather(text, starts, tabs)
    return Manifest(root, names, offsets, sizes, where)


def write_manifest(path: str | Path, root: str, names: Iterable[str], sizes: Iterable[int]) -> None:
    """Write a manifest in the original's format; the file appears whole or not at all.

    Raises:
        DataError: the file cannot be written, or a name holds a tab or a line break.
    """
    lines = [root]
    for name, size in zip(names, sizes, strict=True):
        if not is_listable(name):
            raise DataError(f"{path}: a manifest cannot hold the name {name!r}; rename the file")
        lines.append(f"{name}\t{int(size)}")
    write_atomically(path, os.fsencode("\n".join(lines) + "\n"))


def is_listable(name: str) -> bool:
    """Whether a line of a manifest can hold this name."""
    return not any(mark in name for mark in "\t\n\r")


def _strip_right(text: Bytes, ends: Ints) -> Ints:
    ends = ends.copy()
    blank = np.isin(text[ends - 1], (RETURN, SPACE))
    while blank.any():
        ends[blank] -= 1
        blank = np.isin(text[ends - 1], (RETURN, SPACE))
    return ends


def _one_tab_per_line(where: str, text: Bytes, starts: Ints, ends: Ints) -> Ints:
    tabs = np.flatnonzero(text == TAB)
    first, after = np.searchsorted(tabs, starts), np.searchsorted(tabs, ends)
    wrong = np.flatnonzero(after - first != 1)
    if len(wrong):
        row = int(wrong[0])
        found = int(after[row] - first[row])
        _refuse(where, text, starts, ends, row, f"must be path TAB samples, with one tab, got {found} tabs in")
    return tabs[first]


def _check_names(where: str, text: Bytes, starts: Ints, tabs: Ints) -> None:
    empty = np.flatnonzero(starts == tabs)
    if len(empty):
        _refuse(where, text, starts, tabs, int(empty[0]), "has no path:")
    nul = np.flatnonzero(text == 0)
    if len(nul):
        _refuse(where, text, starts, tabs, int(np.searchsorted(starts, nul[0], "right")) - 1, "holds a zero byte:")


def _check_inside(where: str, text: Bytes, starts: Ints, tabs: Ints) -> None:
    # A part `..` is two dots between delimiters; `a..b` is an ordinary name.
    dots = np.flatnonzero((text[1:-2] == DOT) & (text[2:-1] == DOT)) + 1
    dots = dots[np.isin(text[dots - 1], (SLASH, NEWLINE)) & np.isin(text[dots + 2], (SLASH, TAB))]
    dots = dots[dots >= starts[0]]
    absolute = np.flatnonzero(text[starts] == SLASH)
    wrong = [*absolute[:1], *(np.searchsorted(starts, dots[:1], "right") - 1)]
    if wrong:
        rule = "must stay inside the root folder (or give --allow-outside-root), got"
        _refuse(where, text, starts, tabs, int(min(wrong)), rule)


def _parse_sizes(where: str, text: Bytes, starts: Ints, ends: Ints) -> Ints:
    widths = ends - starts
    longest = int(widths.max())
    sizes = np.zeros(len(starts), dtype=np.int64)
    wrong = (widths < 1) | (widths > MAX_DIGITS)
    # One pass per decimal place, over all lines at once.
    for place in range(min(longest, MAX_DIGITS)):
        here = widths > place
        digits = text[np.minimum(starts + place, ends - 1)].astype(np.int64) - ZERO
        wrong |= here & ((digits < 0) | (digits > 9))
        sizes = np.where(here, sizes * 10 + digits, sizes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        _refuse(where, text, starts, ends, row, "the number of samples must be a whole number >= 0, got")
    return sizes


def _gather(text: Bytes, starts: Ints, ends: Ints) -> tuple[Bytes, Ints]:
    """Return the bytes of all [start, end) spans joined, and where each begins."""
    edges = np.zeros(len(text) + 1, dtype=np.int8)
    edges[starts] += 1
    edges[ends] -= 1
    inside = np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    np.cumsum(ends - starts, out=offsets[1:])
    return text[inside], offsets


def _refuse(where: str, text: Bytes, starts: Ints, ends: Ints, row: int, rule: str) -> NoReturn:
    found = os.fsdecode(text[starts[row] : ends[row]].tobytes())
    shown = found if len(found) <= 200 else found[:200] + "..."
    raise DataError(f"{where}:{row + 2}: {rule} {shown!r}")
