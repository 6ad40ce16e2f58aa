"""Small text files, read with one-line errors."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path

from w2v.errors import DataError
from w2v.files.pointer import refuse_pointer

NO_TEXT: Mapping[bytes, str] = {
    codecs.BOM_UTF16_LE: "UTF-16; iconv -f UTF-16 -t UTF-8 FILE > NEW",
    codecs.BOM_UTF16_BE: "UTF-16; iconv -f UTF-16 -t UTF-8 FILE > NEW",
    b"\x1f\x8b": "a gzip file; gunzip -c FILE > NEW",
    b"PK\x03\x04": "a zip archive, or a table of a spreadsheet; save it as text with tabs or commas",
}
"""First bytes of files that are no UTF-8 text -> what they are, and what makes text of them."""


def what_else(content: bytes) -> str:
    """Return what a file is that is no text, and what to do about it, by its first bytes; empty where it may be one."""
    return next((said for start, said in NO_TEXT.items() if content.startswith(start)), "")


def id_and_value(line: str) -> tuple[str, str]:
    """Return the first word of a line, which is an id, and what follows it after a space or a tab, as Kaldi has it."""
    name, _, value = line.strip().replace("\t", " ", 1).partition(" ")
    return name, value


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
    if other := what_else(content):
        raise DataError(f"{path}:1: the {kind} must be UTF-8 text, got {other}")
    if b"\r" in content and b"\n" not in content:  # of a Macintosh before 2001, and of some spreadsheets
        raise DataError(f"{path}:1: lines of the {kind} end in CR alone; tr '\\r' '\\n' < FILE > NEW")
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as e:
        line = content[: e.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: the {kind} must be UTF-8 text, got byte 0x{content[e.start]:02x}; iconv -f ITS_ENCODING "
            "-t UTF-8 FILE > NEW"
        ) from e
    # str.splitlines would also cut at U+2028, form feeds and others, and shift labels against audio.
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
