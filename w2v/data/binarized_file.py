"""Token files of fairseq-preprocess: `X.bin` holds the tokens of all sentences, `X.idx` says where each begins.

Two formats are read, known by the first bytes of `X.idx`; the first is written. Numbers are little-endian.

    mmap    MMIDIDX\\0\\0, version 1, type (1 byte), N, then N sizes (int32), N addresses in bytes (int64)
    cached  TNTIDX\\0\\0, version 1, type, width, N, S, then N + 1 places among the sizes, N + 1 places among the
            tokens, S sizes (all int64); tokens are one larger than their ids
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2v.array_types import IntArray
from w2v.errors import DataError
from w2v.files import atomic_path

MMAP_MAGIC = b"MMIDIDX\x00\x00"
CACHED_MAGIC = b"TNTIDX\x00\x00"
MMAP_HEADER = 26
CACHED_HEADER = 48
TYPES: dict[int, str] = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
UINT16, INT32 = 8, 4
SMALL_VOCABULARY = 65_500
"""Dictionaries smaller than this, without `<mask>`, are written in 16 bits, as in the original."""


@dataclass(frozen=True)
class TokenFile:
    """Sentences of tokens.

    Attributes:
        path: the file, for messages.
        tokens: (T,) all tokens; they may lie in the file.
        starts: (M,) place of the first token of each sentence.
        sizes: (M,) tokens per sentence, with the `</s>` that ends it.
        shift: what is taken from a token to get its id.
    """

    path: str
    tokens: npt.NDArray[np.integer]
    starts: IntArray
    sizes: IntArray
    shift: int = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def sentence(self, row: int) -> IntArray:
        """Return the ids of one sentence."""
        start = self.starts[row]
        return self.tokens[start : start + self.sizes[row]].astype(np.int64) - self.shift


def read_token_file(prefix: str | Path) -> TokenFile:
    """Open `PREFIX.bin` and `PREFIX.idx` of either format; tokens stay on the disk.

    Raises:
        DataError: a file is missing, cut short, or not of these formats; the message names the file and the field.
    """
    index, binary = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    try:
        content = index.read_bytes()
        size = binary.stat().st_size
    except OSError as e:
        raise DataError(f"{e.filename or prefix}: cannot be read: {e.strerror or e}") from e
    if content.startswith(MMAP_MAGIC):
        kind, starts, sizes, shift = (*_mmap_index(index, content), 0)
    elif content.startswith(CACHED_MAGIC):
        kind, starts, sizes, shift = (*_cached_index(index, content), 1)
    else:
        raise DataError(
            f"{index}: magic: must be that of fairseq-preprocess (mmap, lazy or cached), begins with {content[:9]!r}"
        )
    width = np.dtype(kind).itemsize
    last = int((starts + sizes).max(initial=0))
    if last * width > size or size % width:
        raise DataError(f"{binary}: size: {index} wants {last * width} bytes, found {size}; is it of another file?")
    if last * width < size:
        raise DataError(f"{binary}: size: {index} knows of {last * width} bytes, found {size}; is it of another file?")
    tokens = np.memmap(binary, dtype=kind, mode="r") if size else np.zeros(0, dtype=kind)
    return TokenFile(str(binary), tokens, starts, sizes, shift)


def _mmap_index(path: Path, content: bytes) -> tuple[str, IntArray, IntArray]:
    _check_length(path, content, MMAP_HEADER, "header")
    _check_version(path, content, 9)
    kind = _type(path, content[17])
    count = int.from_bytes(content[18:26], "little")
    _check_length(path, content, MMAP_HEADER + 12 * count, f"{count} sizes and addresses", exact=True)
    sizes = np.frombuffer(content, dtype="<i4", count=count, offset=MMAP_HEADER).astype(np.int64)
    addresses = np.frombuffer(content, dtype="<i8", count=count, offset=MMAP_HEADER + 4 * count)
    width = np.dtype(kind).itemsize
    if (addresses % width).any():
        raise DataError(f"{path}: addresses: must be multiples of {width} bytes, the width of a token")
    return kind, _checked(path, "addresses", addresses // width), _checked(path, "sizes", sizes)


def _cached_index(path: Path, content: bytes) -> tuple[str, IntArray, IntArray]:
    _check_length(path, content, CACHED_HEADER, "header")
    _check_version(path, content, 8)
    code, width, count, num_sizes = np.frombuffer(content, dtype="<i8", count=4, offset=16).tolist()
    kind = _type(path, code)
    if width != np.dtype(kind).itemsize:
        raise DataError(f"{path}: element size: must be {np.dtype(kind).itemsize} for type {code}, got {width}")
    if count < 0 or num_sizes != count:
        raise DataError(f"{path}: sizes: must be one per sentence, got {num_sizes} for {count}")
    _check_length(path, content, CACHED_HEADER + 8 * (3 * count + 2), f"{count} sentences", exact=True)
    numbers = np.frombuffer(content, dtype="<i8", offset=CACHED_HEADER)
    places, sizes = numbers[count + 1 : 2 * count + 2], numbers[2 * count + 2 :]
    if not np.array_equal(np.diff(places), sizes):
        raise DataError(f"{path}: data offsets: do not agree with the sizes of the sentences")
    return kind, _checked(path, "data offsets", places[:-1]), _checked(path, "sizes", sizes)


def _check_length(path: Path, content: bytes, wanted: int, what: str, *, exact: bool = False) -> None:
    if len(content) < wanted or (exact and len(content) != wanted):
        raise DataError(f"{path}: {what}: wants {wanted} bytes, found {len(content)}")


def _check_version(path: Path, content: bytes, offset: int) -> None:
    version = int.from_bytes(content[offset : offset + 8], "little")
    if version != 1:
        raise DataError(f"{path}: version: must be 1, got {version}")


def _type(path: Path, code: int) -> str:
    if code not in TYPES:
        raise DataError(f"{path}: type: must be that of whole numbers ({', '.join(map(str, TYPES))}), got {code}")
    return TYPES[code]


def _checked(path: Path, field: str, numbers: IntArray) -> IntArray:
    if (numbers < 0).any():
        raise DataError(f"{path}: {field}: must not be negative, got {int(numbers.min())}")
    return np.asarray(numbers, dtype=np.int64)


def write_token_file(prefix: str | Path, sentences: Iterable[IntArray], vocabulary: int) -> int:
    """Write `PREFIX.bin` and `PREFIX.idx` in the mmap format, whole or not at all; return the number of sentences.

    Args:
        prefix: path without the endings.
        sentences: ids of each sentence, its `</s>` included.
        vocabulary: size of the dictionary, without `<mask>`: it decides on 16 or 32 bits.

    Raises:
        DataError: the files cannot be written.
    """
    code = UINT16 if vocabulary < SMALL_VOCABULARY else INT32
    kind = np.dtype(TYPES[code])
    sizes: list[int] = []

    def write_tokens(part: Path) -> None:
        with open(part, "wb") as file:
            for sentence in sentences:
                sizes.append(len(sentence))
                file.write(np.asarray(sentence).astype(kind).tobytes())

    def write_index(part: Path) -> None:
        counts = np.array(sizes, dtype="<i4")
        addresses = (counts.astype("<i8").cumsum() - counts) * kind.itemsize
        header = MMAP_MAGIC + (1).to_bytes(8, "little") + bytes([code]) + len(sizes).to_bytes(8, "little")
        part.write_bytes(header + counts.tobytes() + addresses.astype("<i8").tobytes())

    # The tokens first: an index says that its tokens are there.
    _write(Path(f"{prefix}.bin"), write_tokens)
    _write(Path(f"{prefix}.idx"), write_index)
    return len(sizes)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        with atomic_path(path) as part:
            write(part)
    except OSError as e:
        raise DataError(f"cannot write {path}: {e.strerror or e}") from e
