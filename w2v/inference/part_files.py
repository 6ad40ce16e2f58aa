"""What is done of a corpus, clip by clip, in hidden files beside the result, until all of it is there.

Each process appends to a file of its own, one line per clip: `row TAB text`. Where a process is lost, nothing else is;
the same command reads what all files hold and makes what is missing, with any number of processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from w2v.data.manifest import Manifest
from w2v.errors import DataError
from w2v.types import BoolArray

PIECES, PIECE = 64, 1 << 16  # of a large file; reading all of a language model takes as long as a short run


class PartFiles:
    """The parts of one result.

    Args:
        target: the file that is made of them.
        key: what the lines depend on (`settings_key`); parts of another key are not seen.
        num_clips: rows of the manifest.
    """

    def __init__(self, target: Path, key: str, num_clips: int) -> None:
        self._target, self._key, self._num_clips = target, key, num_clips

    def done(self) -> BoolArray:
        """Return for each row (N,) whether its line is there.

        Raises:
            DataError: a part cannot be read.
        """
        found = np.zeros(self._num_clips, dtype=np.bool_)
        for path in self._paths():
            for row, _, _ in self._lines(path):
                found[row] = True
        return found

    @contextmanager
    def writer(self, name: str) -> Iterator[Callable[[Mapping[int, str]], None]]:
        """Give what appends lines, row -> text without line breaks, to the part of this process.

        Args:
            name: tells the part from those of other processes.

        Raises:
            DataError: the part cannot be written.
        """
        path = self._target.with_name(f"{self._prefix}{name}.part")
        try:
            end = max((end for _, _, end in self._lines(path)), default=0) if path.exists() else 0
            with open(path, "ab") as file:
                file.truncate(end)  # a line that was torn when the process was killed

                def write(lines: Mapping[int, str]) -> None:
                    try:
                        file.write("".join(f"{row}\t{text}\n" for row, text in lines.items()).encode())
                        file.flush()
                    except OSError as e:
                        raise _error("write", path, e) from e

                yield write
                os.fsync(file.fileno())
        except OSError as e:
            raise _error("write", path, e) from e

    def read(self, rows: Iterable[int]) -> Iterator[str]:
        """Yield the texts of rows, which must all be done, in the order asked for; memory does not grow with them.

        Raises:
            DataError: a part cannot be read, or is gone.
        """
        place = np.full((self._num_clips, 2), -1, dtype=np.int64)  # where the line of a row begins: part, byte
        paths = self._paths()
        for number, path in enumerate(paths):
            for row, start, _ in self._lines(path):
                place[row] = number, start
        files = []
        try:
            files = [open(path, "rb") for path in paths]  # noqa: SIM115 - closed below
            for row in rows:
                file = files[place[row, 0]]
                file.seek(place[row, 1])
                yield file.readline().partition(b"\t")[2][:-1].decode()
        except OSError as e:
            raise _error("read", self._target, e) from e
        finally:
            for file in files:
                file.close()

    def remove(self) -> None:
        """Remove all parts of the result, also those of other settings: it is whole now."""
        for path in self._target.parent.glob(f".{_escaped(self._target.name)}.*.part"):
            path.unlink(missing_ok=True)

    @property
    def _prefix(self) -> str:
        return f".{self._target.name}.{self._key}."

    def _paths(self) -> list[Path]:
        return sorted(self._target.parent.glob(f"{_escaped(self._prefix)}*.part"))

    def _lines(self, path: Path) -> Iterator[tuple[int, int, int]]:
        """Yield row, begin and end of each whole line; what comes after a damaged one does not count."""
        start = 0
        try:
            with open(path, "rb") as file:
                for line in file:
                    row = line.partition(b"\t")[0]
                    if not (line.endswith(b"\n") and row.isdigit() and int(row) < self._num_clips):
                        return
                    yield int(row), start, start + len(line)
                    start += len(line)
        except FileNotFoundError:  # another run has joined the parts meanwhile
            return
        except OSError as e:
            raise _error("read", path, e) from e


def settings_key(settings: Mapping[str, Any], files: Iterable[str | Path], clips: Manifest) -> str:
    """Return a short text that differs where settings, the files that they name, or the clips do.

    Of a large file, pieces that are spread evenly are looked at: those of a checkpoint hold its checksums.

    Args:
        settings: plain values by name.
        files: files, or folders of python files; what does not exist counts as empty.
        clips: their order, too, counts.
    """
    digest = hashlib.blake2b(repr((sorted(settings.items()), clips.root)).encode(), digest_size=6)
    for array in (clips.names, clips.offsets, clips.sizes):
        digest.update(np.ascontiguousarray(array).data)
    for path in map(Path, files):
        for found in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"/{found.name}".encode("utf-8", "surrogateescape"))
            if found.is_file():
                _update(digest, found)
    return digest.hexdigest()


def _update(digest: Any, path: Path) -> None:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(str(size).encode())
            if size <= PIECES * PIECE:
                digest.update(file.read())
                return
            for number in range(PIECES):
                file.seek((size - PIECE) * number // (PIECES - 1))
                digest.update(file.read(PIECE))
    except OSError as e:
        raise _error("read", path, e) from e


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _error(what: str, path: Path, error: OSError) -> DataError:
    return DataError(f"cannot {what} {path}: {error.strerror or error}")
