"""The one way in which a file gets its name: written aside, flushed to the disk, renamed.

A full disk, a kill or a power cut leaves the file that was there before, or none; a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from w2v.errors import DataError


@contextlib.contextmanager
def atomic_path(path: str | Path, part: Path | None = None) -> Iterator[Path]:
    """Give a path to write to, in a `with` statement; what lies there becomes `path` if the block ends well.

    Args:
        path: the file.
        part: the path to write to, in the same folder; by default a hidden one that no other process uses.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; an older file is left as it was.
    """
    target = Path(path)
    # Not the process id: on a shared disk, containers of two machines may have the same.
    part = part or target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # flushes the whole file, also what another handle wrote
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file.
        content: all of it, or its pieces in turn.

    Raises:
        DataError: the folder is missing or not writable, or the disk is full; an older file is left as it was.
    """
    try:
        with atomic_path(path) as part, open(part, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
    except OSError as e:
        raise DataError(f"cannot write {path}: {e.strerror or e}") from e
