"""How often the n-grams of a text occur: words to integers, then one sort per order.

An n-gram is the number of its first n - 1 words and its last word, packed into one integer, so that any order fits.
Everything is held in memory: at order 4, about 200 bytes for each word of the text.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2v.array_types import IntArray
from w2v.data.text_blocks import check_utf8, read_blocks
from w2v.errors import DataError
from w2v.lm.ngram_table import SENTENCE_END, SENTENCE_START, UNKNOWN

logger = logging.getLogger(__name__)

RESERVED = (UNKNOWN, SENTENCE_START, SENTENCE_END)  # and their numbers
UNKNOWN_NUMBER, START_NUMBER, END_NUMBER = range(3)
_RESERVED_WORD = re.compile(rb"(?<!\S)(?:<unk>|<s>|</s>)(?!\S)")


@dataclass(frozen=True)
class NgramCounts:
    """Counts of one order; rows and their order are those of an `NgramTable`.

    Attributes:
        contexts: (N,) rows of the first n - 1 words in the order below.
        words: (N,) last words.
        suffixes: (N,) rows of the last n - 1 words in the order below.
        counts: (N,) occurrences.
        starts: (N,) whether the first word is `<s>`.
    """

    contexts: IntArray
    words: IntArray
    suffixes: IntArray
    counts: IntArray
    starts: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TextCounts:
    """Counts of a text.

    Attributes:
        vocabulary: `<unk>`, `<s>`, `</s>`, then the words in the order in which they first occur.
        orders: counts of single words, pairs, ...
    """

    vocabulary: list[str]
    orders: list[NgramCounts]


def read_texts(paths: Sequence[str], *, allow_reserved: bool = False) -> Iterator[bytes]:
    r"""Yield texts, a sentence per line, in blocks whose lines all end in `\n`.

    Args:
        paths: files, also gzipped; `-` is the standard input.
        allow_reserved: let `<s>`, `</s>` and `<unk>` pass.

    Raises:
        DataError: a file cannot be read or is not UTF-8, or holds a reserved word.
    """
    for path in paths:
        line = 1
        for block in read_blocks(path, "text"):
            check_utf8(block, path, line)
            found = None if allow_reserved or b"<" not in block else _RESERVED_WORD.search(block)
            if found:
                number = line + block.count(b"\n", 0, found.start())
                raise DataError(f"{path}:{number}: the word {found[0].decode()} has a meaning of its own; take it out")
            yield block if block.endswith(b"\n") else block + b"\n"
            line += block.count(b"\n")


def count_ngrams(blocks: Iterable[bytes], order: int) -> TextCounts:
    """Count the n-grams of a text up to an order.

    Words are separated by white space of ASCII, as in KenLM. A sentence begins with one `<s>` and ends in `</s>`;
    n-grams do not cross sentences, and an empty line is an empty sentence.

    Args:
        blocks: the text, from `read_texts`.
        order: the longest n-grams.

    Raises:
        DataError: there is no line.
    """
    numbers: defaultdict[bytes, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    for word in RESERVED:
        numbers[word.encode()]
    parts = [np.array([START_NUMBER], dtype=np.int32)]
    for block in blocks:
        # NUL ends a word in KenLM, too.
        words = block.replace(b"\0", b" ").replace(b"\n", b" </s> <s> ").split()
        parts.append(np.fromiter(map(numbers.__getitem__, words), np.int32, len(words)))
    tokens = np.concatenate(parts)[:-1]  # without the `<s>` after the last sentence
    del parts
    if not len(tokens):
        raise DataError("the text has no line")
    lines = np.count_nonzero(tokens == START_NUMBER)
    different = len(numbers) - len(RESERVED)
    logger.info("%d lines, %d words, %d of them different", lines, len(tokens) - 2 * lines, different)
    return TextCounts([word.decode() for word in numbers], _count_orders(tokens, len(numbers), order))


def _count_orders(tokens: npt.NDArray[np.int32], vocabulary_size: int, order: int) -> list[NgramCounts]:
    numbers = np.arange(vocabulary_size)
    zeros = np.zeros(vocabulary_size, dtype=np.int64)
    counts = np.bincount(tokens, minlength=vocabulary_size)
    orders = [NgramCounts(zeros, numbers, zeros, counts, numbers == START_NUMBER)]
    # Row of the n-gram that ends at each token, -1 where none does; and the tokens where one does.
    rows = tokens
    ends = np.flatnonzero(tokens != START_NUMBER)
    for n in range(2, order + 1):
        logger.info("counting %d-grams", n)
        keys = rows[ends - 1].astype(np.int64) * vocabulary_size + tokens[ends]
        by_key = np.argsort(keys)
        keys = keys[by_key]
        first = np.ones(len(keys), dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        numbered = np.empty(len(keys), dtype=np.int32)
        numbered[by_key] = np.cumsum(first) - 1
        begins = np.flatnonzero(first)
        contexts, words = np.divmod(keys[begins], vocabulary_size)
        suffixes = rows[ends[by_key[begins]]].astype(np.int64)
        counts = np.diff(begins, append=len(keys))
        orders.append(NgramCounts(contexts, words, suffixes, counts, orders[-1].starts[contexts]))
        rows = np.full(len(tokens), -1, dtype=np.int32)
        rows[ends] = numbered
        ends = ends[rows[ends - 1] >= 0]
    return orders
