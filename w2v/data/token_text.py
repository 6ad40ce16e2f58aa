"""Text files of tokens, as `w2v-tokenize` writes them: a line per clip, codes of a frame joined by `-`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from w2v.data.binarized_file import SMALL_VOCABULARY, TokenFile
from w2v.data.dictionary import Dictionary
from w2v.data.text_blocks import check_utf8, read_blocks


def encode_line(line: str, dictionary: Dictionary) -> list[int]:
    """Return the ids of a line and of the `</s>` that ends it; special symbols in it are looked up like others."""
    return [*dictionary.encode(line), dictionary.eos]


def read_token_text(path: str, dictionary: Dictionary) -> TokenFile:
    """Read a file of tokens, plain or gzipped, into memory.

    Raises:
        DataError: it cannot be read, or is no UTF-8 text.
    """
    kind = np.uint16 if len(dictionary) < SMALL_VOCABULARY else np.int32
    parts: list[npt.NDArray[np.integer]] = [np.zeros(0, dtype=kind)]
    sizes: list[int] = []
    line_number = 1
    for block in read_blocks(path, "token file"):
        check_utf8(block, path, line_number)
        lines = block.decode().removesuffix("\n").split("\n")
        line_number += len(lines)
        ids = [encode_line(line, dictionary) for line in lines]
        sizes += map(len, ids)
        parts.append(np.concatenate([np.array(line, dtype=kind) for line in ids]))
    counts = np.array(sizes, dtype=np.int64)
    return TokenFile(path, np.concatenate(parts), counts.cumsum() - counts, counts)
