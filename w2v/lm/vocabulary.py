"""The words of a KenLM model: from the text of an ARPA file, or from the strings that a binary ends with.

KenLM's Python module can look a word up but cannot list words, so binaries are read here; their probabilities are not.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from w2v.errors import ConfigError, DataError
from w2v.lm.arpa import read_arpa_words

SPECIAL_WORDS = frozenset(("<s>", "</s>", "<unk>", "<UNK>", "<pad>"))
BINARY_MAGIC = b"mmap lm http://kheafield.com/code"

# The head of a binary (kenlm, lm/binary_format.cc, version 5): 88 bytes of magic and test values, then order,
# probing multiplier, model type, whether the words are in the file, search version; then a count per order.
_TEST_BYTES = 88
_FIXED = struct.Struct("<B3xfi?3xI")
_COUNT = struct.Struct("<Q")
_FIRST_WORD = b"<unk>\0"


def read_vocabulary(path: str, flag: str) -> list[str] | None:
    """Return the words of a language model in file order, without `<s>`, `</s>` and `<unk>`.

    Args:
        path: ARPA text (also gzipped), or a KenLM binary.
        flag: the flag that named the file, for messages.

    Returns:
        The words, or None for a binary that was built without them.

    Raises:
        ConfigError: no such file.
        DataError: the file is neither an ARPA file nor a KenLM binary.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{flag}: no file {path}")
    words = _read_binary_words(path) if is_binary(path) else read_arpa_words(path)
    return None if words is None else [word for word in words if word not in SPECIAL_WORDS]


def is_binary(path: str) -> bool:
    """Tell whether a file begins as KenLM binaries do."""
    with open(path, "rb") as file:
        return file.read(len(BINARY_MAGIC)) == BINARY_MAGIC


def _read_binary_words(path: str) -> list[str] | None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if len(content) < _TEST_BYTES + _FIXED.size + _COUNT.size:
            raise DataError(f"{path}: the KenLM binary is cut short")
        has_words = _FIXED.unpack_from(content, _TEST_BYTES)[3]
        if not has_words:
            return None
        (count,) = _COUNT.unpack_from(content, _TEST_BYTES + _FIXED.size)
        # The words are the last thing in the file, so the search runs over them alone.
        start = content.rfind(_FIRST_WORD)
        words = content[start:].split(b"\0")[:-1] if start >= 0 else []
    # `<unk>` comes first even where the ARPA file had none, and then it is not in the count.
    if len(words) not in (count, count + 1):
        raise DataError(f"{path}: expected {count} words at the end of the KenLM binary, found {len(words)}")
    try:
        return [word.decode("utf-8") for word in words]
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: a word is not UTF-8: {e}") from e
