"""Large text files, read as blocks of whole lines: plain or gzipped, or the standard input.

A block is some megabytes of bytes, so that the work on it is one call per block and not one per line, and files
larger than the memory can pass through.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

from w2v.errors import DataError
from w2v.files.pointer import refuse_pointer

STDIN = "-"
GZIP_MAGIC = b"\x1f\x8b"
BLOCK_BYTES = 1 << 22
LONGEST_LINE = 1 << 26


def read_blocks(path: str, kind: str) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines; the last line may lack its end.

    Args:
        path: the file, or `-` for the standard input; gzipped files are known by their first bytes.
        kind: the word for it in messages.

    Raises:
        DataError: the file cannot be read, is a damaged gzip file, or has a line of more than 64 MiB.
    """
    if path != STDIN:
        refuse_pointer(path, DataError)
    try:
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as raw:
            file = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP_MAGIC else raw
            while block := file.read(BLOCK_BYTES):
                if not block.endswith(b"\n"):
                    block += file.readline(LONGEST_LINE)
                    if len(block) > LONGEST_LINE:
                        raise DataError(f"the {kind} {path} has a line of more than {LONGEST_LINE} bytes")
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise DataError(f"the {kind} {path} is a damaged gzip file: {e}") from e
    except OSError as e:
        raise DataError(f"cannot read the {kind} {path}: {e.strerror or e}") from e


def check_utf8(block: bytes, path: str, first_line: int) -> None:
    """Check that a block is UTF-8.

    Args:
        block: whole lines.
        path: the file, for the message.
        first_line: number of the block's first line.

    Raises:
        DataError: it is not; named as file:line.
    """
    try:
        block.decode()
    except UnicodeDecodeError as e:
        line = first_line + block.count(b"\n", 0, e.start)
        raise DataError(f"{path}:{line}: must be UTF-8 text, got byte 0x{block[e.start]:02x}") from e
