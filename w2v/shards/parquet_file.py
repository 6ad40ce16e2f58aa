"""Clips in the rows of parquet files, as the Hugging Face hub has them: a column of bytes and names.

Files are read a row group at a time by pyarrow; neither `datasets` nor what it decodes audio with is needed.
"""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from w2v.errors import DataError, MissingPackageError

MOST_GROUPS = 2  # row groups that a reader holds
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_transcription")


class ByteRanges(Protocol):
    """A file that is read in ranges."""

    @property
    def size(self) -> int | None: ...

    def read(self, start: int, end: int) -> bytes | memoryview: ...


class Seekable(io.RawIOBase):
    """Ranges as the file that pyarrow asks for."""

    def __init__(self, file: ByteRanges) -> None:
        self._file = file
        self._size = file.size or 0
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._position + size, self._size)
        content = bytes(self._file.read(self._position, end)) if end > self._position else b""
        self._position += len(content)
        return content

    def readall(self) -> bytes:
        return self.read()


@dataclass(frozen=True)
class Row:
    """A row with a clip.

    Attributes:
        group: its row group.
        row: its number within the group.
        content: bytes of the audio file; None: it holds none.
        path: name of the audio file; empty: it has none.
        text: what is said; None: there is no column of texts.
    """

    group: int
    row: int
    content: bytes | None
    path: str
    text: str | None


class Table:
    """One parquet file.

    Raises:
        DataError: it is none, or has no column of audio.
        MissingPackageError: pyarrow is not installed.
    """

    def __init__(self, file: ByteRanges, where: str) -> None:
        self._where = where
        parquet = _pyarrow()
        try:
            self._file = parquet.ParquetFile(Seekable(file), pre_buffer=False)
        except (ValueError, OSError) as e:  # pyarrow's own errors are both
            raise DataError(f"{where}: not readable as a parquet file: {' '.join(str(e).split())[:200]}") from e
        schema = self._file.schema_arrow
        self.column = _audio_column(schema)
        if self.column is None:
            raise DataError(f"{where}: has no column of audio bytes among {', '.join(schema.names)}")
        self.text = next((name for name in TEXTS if name in schema.names), None)

    def group(self, number: int, *, with_text: bool = False) -> list[Row]:
        """Return the rows of a row group.

        Raises:
            DataError: it cannot be read, or there is no such group.
        """
        columns = [self.column, *([self.text] if with_text and self.text else [])]
        if not 0 <= number < self._file.num_row_groups:
            raise DataError(f"{self._where}: has {self._file.num_row_groups} row groups, and no group {number}")
        try:
            # iter_batches would divide the group, and structs cannot be read in part.
            table = self._file.read_row_group(number, columns=columns, use_threads=False)
        except (ValueError, OSError) as e:
            raise DataError(f"{self._where}: row group {number} is damaged: {' '.join(str(e).split())[:200]}") from e
        texts = table.column(self.text).to_pylist() if with_text and self.text else [None] * table.num_rows
        audio = table.column(self.column)
        return [Row(number, row, *_audio(value), text) for row, (value, text) in enumerate(zip(_values(audio), texts))]

    def rows(self) -> Iterator[Row]:
        """Yield all rows with their texts, one row group in memory at a time."""
        for number in range(self._file.num_row_groups):
            yield from self.group(number, with_text=True)


class RowGroups:
    """Row groups of any files, of which the last two stay in memory; safe to be used by several threads.

    Args:
        open_file: from a shard to what reads it.
        shown: from a shard to its name in messages.
    """

    def __init__(self, open_file: Callable[[str], ByteRanges], shown: Callable[[str], str]) -> None:
        self._open, self._shown = open_file, shown
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, Table] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], list[Row]] = OrderedDict()

    def read(self, shard: str, group: int, row: int) -> bytes:
        """Return the bytes of a clip.

        Raises:
            DataError: there is no such row, or it holds no bytes.
        """
        with self._lock:
            rows = self._group(shard, group)
            content = rows[row].content if row < len(rows) else None
        if content is None:
            raise DataError(f"{self._shown(shard)}: row {row} of row group {group} holds no audio")
        return content

    def _group(self, shard: str, number: int) -> list[Row]:
        found = self._groups.pop((shard, number), None)
        if found is None:
            while len(self._groups) >= MOST_GROUPS:
                self._groups.popitem(last=False)
            if shard not in self._tables:
                self._tables[shard] = Table(self._open(shard), self._shown(shard))
                while len(self._tables) > MOST_GROUPS:
                    self._tables.popitem(last=False)
            found = self._tables[shard].group(number)
        self._groups[shard, number] = found
        return found


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingPackageError("pyarrow", "shards", "reading parquet files") from None
    return parquet


def _audio_column(schema: Any) -> str | None:
    """Return the column that `datasets` calls Audio; else the first struct with bytes, or the column `audio`."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        named = [name for name, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "Audio"]
    except (ValueError, KeyError, TypeError, AttributeError):
        named = []
    for name in named:
        if name in schema.names:
            return str(name)
    for column in schema:
        kind = column.type
        if hasattr(kind, "num_fields") and any(kind.field(i).name == "bytes" for i in range(kind.num_fields)):
            return str(column.name)
    return next((name for name in ("audio", "wav", "flac", "mp3") if name in schema.names), None)


def _values(column: Any) -> Iterator[Any]:
    for chunk in column.chunks:
        for value in chunk:
            yield value.as_py()


def _audio(value: Any) -> tuple[bytes | None, str]:
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        return content or None, path or ""
    if isinstance(value, bytes):
        return value or None, ""
    return None, value if isinstance(value, str) else ""
