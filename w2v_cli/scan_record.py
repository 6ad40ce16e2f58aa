"""What a scan of files has found so far, in a file, so that an interrupted scan resumes where it was.

One line per file: samples, seconds, path. Lines are written as the scan goes; the last one may be torn.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import TracebackType

from w2v.errors import DataError
from w2v.files import write_atomically


class ScanRecord:
    """Lengths of files that an earlier scan has found, and a place for more; a context that closes the file.

    Args:
        path: the file.
        key: what the lengths depend on, in one line: a record made with another key is begun anew.

    Attributes:
        lengths: path -> (samples, seconds), of files that have not been changed since.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: str, key: str) -> None:
        self._path = Path(path)
        self.lengths: dict[str, tuple[int, float]] = {}
        head = os.fsencode(key) + b"\n"
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
            if content.startswith(head):
                self._read(content[len(head) :], self._path.stat().st_mtime)
            known = (_line(name, *length) for name, length in self.lengths.items())
            write_atomically(path, itertools.chain([head], known))
            self._file = open(path, "ab")  # noqa: SIM115 (closed when the context ends)
        except OSError as e:
            raise DataError(f"cannot write {path}: {e.strerror or e}") from e

    def __enter__(self) -> ScanRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, path: str, samples: int, seconds: float) -> None:
        """Note the length of a file, whose path must not hold a tab or a line break."""
        self._file.write(_line(path, samples, seconds))

    def remove(self) -> None:
        """Remove the file: the scan is over."""
        self._path.unlink(missing_ok=True)

    def _read(self, content: bytes, time: float) -> None:
        for line in content.split(b"\n")[:-1]:
            fields = line.split(b"\t")
            try:
                samples, seconds, name = int(fields[0]), float(fields[1]), os.fsdecode(fields[2])
                unchanged = os.stat(name).st_mtime < time
            except (ValueError, IndexError, OSError):
                continue
            if unchanged:
                self.lengths[name] = samples, seconds


def _line(path: str, samples: int, seconds: float) -> bytes:
    return b"%d\t%r\t%b\n" % (samples, seconds, os.fsencode(path))
