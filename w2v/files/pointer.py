"""Git LFS pointers: what lies in a clone in place of a large file that was not downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from w2v.errors import W2vError

START = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: str | Path, error: type[W2vError]) -> None:
    """Raise an error that says what to do where a file is such a pointer.

    Raises:
        W2vError: of the type `error`; a file that cannot be read passes.
    """
    if not os.path.isfile(path):  # a pipe is read once
        return
    try:
        with open(path, "rb") as file:
            start = file.read(len(START))
    except OSError:
        return
    if start == START:
        raise error(f"{path}: is a Git LFS pointer and not the file itself; run `git lfs pull` there, or download it")
