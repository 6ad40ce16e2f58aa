r"""ARPA files, the text format of n-gram models: read and written by arrays, plain or gzipped.

    \data\
    ngram 1=32926
    ngram 2=357761

    \1-grams:
    -4.2859454    CHAPTER    -0.18486778        (log10 probability, words, log10 back-off weight)
    ...
    \end\
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import repeat

import numpy as np
import numpy.typing as npt

from w2v.array_types import FloatArray, IntArray
from w2v.data.text_blocks import check_utf8, read_blocks
from w2v.errors import DataError
from w2v.files import write_atomically
from w2v.lm.ngram_table import BackoffModel, NgramTable

KIND = "language model"
MAX_ORDER = 16
ROWS_PER_WRITE = 1 << 16
_COUNT = re.compile(rb"ngram\s+(\d{1,9})\s*=\s*(\d{1,19})")
_WHITE = np.zeros(256, dtype=bool)
_WHITE[list(b" \t\n\r\v\f")] = True  # what bytes.split() takes for white space


class _Lines:
    """Lines of a file, one by one or as blocks that end before the next line with a backslash."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = 1  # of the next line
        self._blocks = read_blocks(path, KIND)
        self._block = b""
        self._at = 0

    def _fill(self) -> bool:
        if self._at == len(self._block):
            self._block, self._at = next(self._blocks, b""), 0
        return bool(self._block)

    def next(self) -> bytes | None:
        """Return the next line that is not empty, or None."""
        while self._fill():
            end = self._block.find(b"\n", self._at) + 1 or len(self._block)
            line = self._block[self._at : end].strip()
            self._at, self.number = end, self.number + 1
            if line:
                return line
        return None

    def section(self) -> Iterator[tuple[bytes, int]]:
        """Yield blocks up to the next line that begins with a backslash, each with the number of its first line."""
        while self._fill():
            if self._block.startswith(b"\\", self._at):
                return
            end = self._block.find(b"\n\\", self._at) + 1 or len(self._block)
            block, first = self._block[self._at : end], self.number
            self._at, self.number = end, self.number + block.count(b"\n")
            yield block, first

    def error(self, message: str, line: int | None = None) -> DataError:
        """Return the error that names a line; the last one read where none is given."""
        return DataError(f"{self.path}:{max(self.number - 1, 1) if line is None else line}: {message}")


def read_arpa(path: str) -> BackoffModel:
    """Read an ARPA file.

    Raises:
        DataError: the file cannot be read, or breaks the format; named as file:line.
    """
    lines = _Lines(path)
    counts = _read_counts(lines)
    numbers: dict[bytes, int] = {}
    tables: list[NgramTable] = []
    for order, count in enumerate(counts, start=1):
        header = lines.next()
        if header != b"\\%d-grams:" % order:
            raise lines.error(f"expected \\{order}-grams:, {_found(header)}")
        rows = _read_rows(lines, order, count, numbers)
        tables.append(_sorted_table(lines, rows, tables, numbers) if order > 1 else _unigram_table(rows))
    if (end := lines.next()) != b"\\end\\":
        raise lines.error(f"expected \\end\\, {_found(end)}")
    return BackoffModel([word.decode() for word in numbers], tables)


def read_arpa_words(path: str) -> list[str]:
    """Read only the words of an ARPA file, in its order.

    Raises:
        DataError: as `read_arpa`.
    """
    lines = _Lines(path)
    counts = _read_counts(lines)
    if (header := lines.next()) != b"\\1-grams:":
        raise lines.error(f"expected \\1-grams:, {_found(header)}")
    numbers: dict[bytes, int] = {}
    _read_rows(lines, 1, counts[0], numbers)
    return [word.decode() for word in numbers]


def _read_counts(lines: _Lines) -> list[int]:
    line = lines.next()
    while line is not None and line.startswith(b"#"):
        line = lines.next()
    if line != b"\\data\\":
        raise DataError(f"{lines.path} is no ARPA file and no KenLM binary: it does not begin with \\data\\")
    counts: list[int] = []
    for block, first in lines.section():
        for number, text in enumerate(block.splitlines(), start=first):
            if not text.strip():
                continue
            found = _COUNT.fullmatch(text.strip())
            if found is None or int(found[1]) != len(counts) + 1 or len(counts) == MAX_ORDER:
                raise lines.error(f"expected ngram {len(counts) + 1}=COUNT, {_found(text)}", number)
            counts.append(int(found[2]))
    if not counts:
        raise lines.error("\\data\\ names no 1-grams")
    return counts


@dataclass(frozen=True)
class _Rows:
    """n-grams of one order, in the order of the file: words (N, n), and for each its numbers and its line."""

    words: npt.NDArray[np.int32]
    log_probs: FloatArray
    backoffs: FloatArray
    lines: IntArray


def _read_rows(lines: _Lines, order: int, count: int, numbers: dict[bytes, int]) -> _Rows:
    parts = [_Rows(np.empty((0, order), np.int32), np.empty(0), np.empty(0), np.empty(0, np.int64))]
    total = 0
    for block, first in lines.section():
        parts.append(_parse(lines, block, first, order, numbers))
        total += len(parts[-1].lines)
        if total > count:
            raise lines.error(f"more {order}-grams than the {count} of \\data\\")
    if total != count:
        raise lines.error(f"{total} {order}-grams, but \\data\\ says {count}")
    return _Rows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Rows)))


def _parse(lines: _Lines, block: bytes, first: int, order: int, numbers: dict[bytes, int]) -> _Rows:
    """Read a block of n-grams; of single words, number them."""
    num_fields = _count_fields(block)
    if len(wrong := np.flatnonzero((num_fields != 0) & (num_fields != order + 1) & (num_fields != order + 2))):
        text = block.split(b"\n", int(wrong[0]) + 1)[wrong[0]]
        rule = f"a {order}-gram is a number, {order} words and a back-off weight"
        raise lines.error(f"{rule}, {_found(text)}", first + int(wrong[0]))
    numbered = first + np.flatnonzero(num_fields)
    num_fields = num_fields[num_fields > 0]
    starts = np.cumsum(num_fields) - num_fields
    tokens = np.array(block.split(), dtype=object)
    log_probs = _floats(lines, tokens[starts], numbered)
    if len(wrong := np.flatnonzero(log_probs > 0)):
        value = log_probs[wrong[0]]
        raise lines.error(f"a log10 probability must be at most 0, got {value:g}", int(numbered[wrong[0]]))
    backoffs = np.zeros(len(starts))
    given = num_fields == order + 2
    backoffs[given] = _floats(lines, tokens[starts[given] + order + 1], numbered[given])
    names = tokens[starts[:, None] + np.arange(1, order + 1)].ravel().tolist()
    if order == 1:
        check_utf8(block, lines.path, first)
        _number_words(lines, names, numbered, numbers)
    words = np.fromiter(map(numbers.get, names, repeat(-1)), np.int32, len(names))
    if len(wrong := np.flatnonzero(words < 0)):
        word = names[wrong[0]].decode(errors="replace")
        raise lines.error(f"{word!r} is not among the 1-grams", int(numbered[wrong[0] // order]))
    return _Rows(words.reshape(-1, order), log_probs, backoffs, numbered)


def _count_fields(block: bytes) -> IntArray:
    """Return the number of fields on each line."""
    characters = np.frombuffer(block, np.uint8)
    begins = ~_WHITE[characters]
    begins[1:] &= _WHITE[characters[:-1]]
    so_far = np.cumsum(begins, dtype=np.int32)
    ends = np.flatnonzero(characters == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block) - 1)
    return np.diff(so_far[ends], prepend=0).astype(np.int64)


def _floats(lines: _Lines, texts: npt.NDArray[np.object_], numbered: IntArray) -> FloatArray:
    """Return the numbers that texts stand for; they must be finite."""
    try:
        values = np.fromiter(map(float, texts.tolist()), np.float64, len(texts))
        wrong = np.flatnonzero(~np.isfinite(values))
    except ValueError:
        wrong = np.flatnonzero([not _is_number(text) for text in texts])
    if len(wrong):
        raise lines.error(f"expected a finite number, {_found(texts[wrong[0]])}", int(numbered[wrong[0]]))
    return values


def _is_number(text: bytes) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number_words(lines: _Lines, names: list[bytes], numbered: IntArray, numbers: dict[bytes, int]) -> None:
    """Give words the next numbers."""
    for name, line in zip(names, numbered.tolist(), strict=True):
        if name in numbers:
            raise lines.error(f"the 1-gram {name.decode()!r} occurs twice", line)
        numbers[name] = len(numbers)


def _unigram_table(rows: _Rows) -> NgramTable:
    size = len(rows.log_probs)
    numbers = np.arange(size)
    return NgramTable(size, np.zeros(size, np.int64), numbers, rows.log_probs, rows.backoffs)


def _sorted_table(lines: _Lines, rows: _Rows, lower: list[NgramTable], numbers: dict[bytes, int]) -> NgramTable:
    """Find the contexts of n-grams, and sort them."""
    contexts: IntArray = rows.words[:, 0].astype(np.int64)
    for column, table in enumerate(lower[1:], start=1):
        contexts = table.find(contexts, rows.words[:, column].astype(np.int64))
    names = list(numbers)

    def error(row: int, message: str) -> DataError:
        words = b" ".join(names[number] for number in rows.words[row]).decode()
        return lines.error(f"{words!r} {message}", int(rows.lines[row]))

    if len(wrong := np.flatnonzero(contexts < 0)):
        raise error(int(wrong[0]), f"stands without its first words among the {len(lower)}-grams")
    keys = contexts * len(numbers) + rows.words[:, -1]
    order = np.argsort(keys)
    if len(wrong := np.flatnonzero(np.diff(keys[order]) == 0)):
        raise error(int(max(order[wrong[0]], order[wrong[0] + 1])), "occurs twice")
    return NgramTable(
        len(numbers),
        contexts[order],
        rows.words[order, -1].astype(np.int64),
        rows.log_probs[order],
        rows.backoffs[order],
    )


def write_arpa(path: str, model: BackoffModel) -> None:
    """Write an ARPA file, gzipped where its name ends in `.gz`; it appears whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    lines = format_arpa(model)
    write_atomically(path, _gzipped(lines) if path.endswith(".gz") else lines)


def format_arpa(model: BackoffModel) -> Iterator[bytes]:
    """Yield the text of an ARPA file in pieces. Numbers have seven digits, all that KenLM's single precision holds."""
    counts = "".join(f"ngram {order}={len(table)}\n" for order, table in enumerate(model.tables, start=1))
    yield f"\\data\\\n{counts}".encode()
    spellings = np.array([word.encode() for word in model.vocabulary], dtype=object)
    for order, table in enumerate(model.tables, start=1):
        yield b"\n\\%d-grams:\n" % order
        row = b"%.7g\t" + b" ".join([b"%b"] * order)
        last = order == len(model.tables)
        row += b"\n" if last else b"\t%.7g\n"
        words = model.spelled(order).T
        for start in range(0, len(table), ROWS_PER_WRITE):
            part = slice(start, start + ROWS_PER_WRITE)
            columns = [table.log_probs[part], *spellings[words[:, part]], *([] if last else [table.backoffs[part]])]
            yield b"".join(map(row.__mod__, zip(*(column.tolist() for column in columns))))
    yield b"\n\\end\\\n"


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(level=6, wbits=zlib.MAX_WBITS | 16)  # with gzip's head
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _found(text: bytes | None) -> str:
    return "the file ends" if text is None else f"got {text.strip()[:200].decode(errors='replace')!r}"
