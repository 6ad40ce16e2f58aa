"""Small text files, read with one-line errors."""

from __future__ import annotations

import codecs
from pathlib import Path

from w2v.errors import DataError
from w2v.files.pointer import refuse_pointer


def read_lines(path: str | Path, kind: str) -> list[str]:
    r"""Read a UTF-8 file as lines without their ends; only `\n` and `\r\n` end a line.

    Args:
        path: the file.
        kind: the word for it in messages.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8 (named as file:line).
    """
    refuse_pointer(path, DataError)
    try:
        content = Path(path).read_bytes()
    except OSError as e:
        raise DataError(f"cannot read the {kind} {path}: {e.strerror or e}") from e
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}:1: the {kind} must be UTF-8 text, got UTF-16; iconv -f UTF-16 -t UTF-8 FILE > NEW")
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as e:
        line = content[: e.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: the {kind} must be UTF-8 text, got byte 0x{content[e.start]:02x}") from e
    # str.splitlines would also cut at U+2028, form feeds and others, and shift labels against audio.
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
