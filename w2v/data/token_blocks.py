"""How sentences of tokens become the items of a masked language model (fairseq `TokenBlockDataset`).

All sentences form one stream, each with the `</s>` that ends it; a block is a stretch of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from w2v.array_types import IntArray
from w2v.errors import DataError

BREAK_MODES = ("none", "complete", "complete_doc", "eos")


@dataclass(frozen=True)
class TokenBlocks:
    """Stretches of a stream of sentences.

    Attributes:
        starts: (B,) first token of each block.
        sizes: (B,) tokens per block.
        first: (B,) sentence that holds its first token.
        offsets: (B,) place of that token in the sentence.
        last: (B,) sentence that holds its last token.
    """

    starts: IntArray
    sizes: IntArray
    first: IntArray
    offsets: IntArray
    last: IntArray

    def __len__(self) -> int:
        return len(self.starts)


def token_blocks(sizes: IntArray, mode: str, block_size: int, separator: int = 1) -> TokenBlocks:
    """Cut a stream into blocks.

    Args:
        sizes: (M,) tokens per sentence, `</s>` included.
        mode: `none`: `block_size` tokens each, wherever sentences end; `complete`: as many whole sentences as fit, at
            least one; `complete_doc`: the same within documents; `eos`: one sentence each, however long.
        block_size: tokens of a block, without the `<s>` that is put before it later.
        separator: size of the sentence that ends a document: 1, an empty line.

    Raises:
        DataError: `complete_doc` leaves no block.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    total = int(sizes.sum())
    if mode == "none":
        starts = np.arange(0, total, block_size, dtype=np.int64)
        found = np.minimum(block_size, total - starts)
    elif mode == "eos":
        rows = np.arange(len(sizes), dtype=np.int64)
        return TokenBlocks(sizes.cumsum() - sizes, sizes, rows, np.zeros_like(rows), rows)
    else:
        starts, found = _whole_sentences(sizes, block_size, separator if mode == "complete_doc" else None)
        if mode == "complete_doc" and not len(starts):
            raise DataError(
                "--sample-break-mode complete_doc leaves no block: every sentence is an empty line or a single token; "
                "use --sample-break-mode complete"
            )
    ends = sizes.cumsum()
    # The sentence of a token: the first one that ends after it.
    first = np.searchsorted(ends, starts, side="right")
    last = np.searchsorted(ends, starts + found - 1, side="right")
    return TokenBlocks(starts, found, first, starts - (ends - sizes)[first], last)


def _whole_sentences(sizes: IntArray, block_size: int, separator: int | None) -> tuple[IntArray, IntArray]:
    """Return starts and sizes of blocks of whole sentences; a `separator` ends a block and is in none.

    Blocks of one token, such as a lone `</s>`, are left out where there are separators.
    """
    starts, found = [], []
    start = size = 0
    shortest = 1 if separator is None else 2

    def close() -> None:
        if size >= shortest:
            starts.append(start)
            found.append(size)

    for sentence in sizes.tolist():
        ends_document = sentence == separator
        if size and (ends_document or size + sentence > block_size):
            close()
            start, size = start + size, 0
        if ends_document:
            start += sentence
        else:
            size += sentence
    close()
    return np.array(starts, dtype=np.int64), np.array(found, dtype=np.int64)
