"""Folders to write to."""

from __future__ import annotations

from pathlib import Path

from w2v.errors import DataError


def make_folder(folder: str | Path, flag: str = "") -> None:
    """Make a folder and those above it, where they are missing.

    Args:
        folder: the folder.
        flag: what named it, such as `--dest`, for the message.

    Raises:
        DataError: it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"{flag and f'{flag}: '}cannot make the folder {folder}: {e.strerror or e}") from e
