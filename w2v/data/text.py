"""Text as one array of word numbers, and how it is cut into samples for a language model.

A "word" is an entry of the dictionary: a word (`--unit word`), or a letter (`--unit letter`), where `|` ends each
word, as in the labels of speech (`w2v-labels`). Lines are sentences; each ends in `</s>`, an empty one is that alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2v.array_types import IntArray
from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.data.text_blocks import check_utf8, read_blocks
from w2v.errors import DataError

KIND = "text"
WORD_END = "|"
UNITS = ("word", "letter")
BREAK_MODES = ("none", "complete", "eos")


@dataclass(frozen=True)
class Text:
    """The sentences of a file, one after another.

    Attributes:
        words: (1 + N,) numbers of words in the smallest type that holds them: `</s>`, then the text. So what a model
            reads and what it is to say are two windows, one place apart.
        ends: (M,) where each sentence ends, counted without that first `</s>`.
        num_unknown: words that the dictionary lacks.
    """

    words: npt.NDArray[np.integer]
    ends: IntArray
    num_unknown: int

    def __len__(self) -> int:
        """Return the number of words N, the ends of sentences included."""
        return len(self.words) - 1

    def samples(self, break_mode: str, size: int) -> tuple[IntArray, IntArray]:
        """Return where samples start, and their sizes.

        Args:
            break_mode: `none`: `size` words each, wherever sentences end; `eos`: one sentence each; `complete`: as
                many whole sentences as `size` words hold, at least one.
            size: `--tokens-per-sample`.
        """
        if break_mode == "none":
            starts = np.arange(0, len(self), size, dtype=np.int64)
        elif break_mode == "eos":
            starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        else:
            starts = self._complete(size)
        return starts, np.diff(starts, append=len(self))

    def _complete(self, size: int) -> IntArray:
        starts, sentence = [0], 0
        while True:
            # One search per sample, not one step per sentence.
            fitting = int(np.searchsorted(self.ends, starts[-1] + size, side="right"))
            sentence = max(fitting, sentence + 1)
            if sentence >= len(self.ends):
                return np.array(starts, dtype=np.int64)
            starts.append(int(self.ends[sentence - 1]))


def read_text(path: str, unit: str, dictionary: Dictionary) -> Text:
    """Read a text file, plain or gzipped.

    Args:
        path: the file.
        unit: `word` or `letter`.
        dictionary: numbers of words.

    Raises:
        DataError: the file cannot be read, is empty or no UTF-8, or holds a special symbol; named as file:line.
    """
    kind = np.uint16 if len(dictionary) <= 1 << 16 else np.int32
    encode = _word_encoder(dictionary) if unit == "word" else _letter_encoder(dictionary)
    parts: list[npt.NDArray[np.integer]] = [np.array([dictionary.eos], dtype=kind)]
    for block, first_line in _blocks(path, unit):
        words = encode(block)
        # The ends of lines are the only special symbols that may come up.
        if (words <= dictionary.eos).sum() != block.count("\n"):
            _refuse_specials(block, path, first_line)
        parts.append(words.astype(kind))
    words = np.concatenate(parts)
    ends = np.flatnonzero(words[1:] == dictionary.eos) + 1
    if not len(ends):
        raise DataError(f"{path}: the text is empty")
    return Text(words, ends, int((words == dictionary.unk).sum()))


def build_dictionary(path: str, unit: str, *, least_count: int = 0, most_words: int = -1) -> Dictionary:
    """Count the words of a text file; the most frequent one comes first, equal counts in order of the words.

    Args:
        path: the file.
        unit: `word` or `letter`.
        least_count: leave out words that are rarer.
        most_words: keep so many words; -1: all.

    Raises:
        DataError: the file cannot be read, or no word is left.
    """
    counts: Counter[str] = Counter()
    for block, _ in _blocks(path, unit):
        counts.update(block.split() if unit == "word" else block.replace("\n", ""))
    for special in SPECIALS:
        counts.pop(special, None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [word for word, count in ordered if count >= least_count]
    if most_words >= 0:
        kept = kept[:most_words]
    if not kept:
        raise DataError(f"{path}: no word is left for a dictionary")
    return Dictionary.from_symbols(kept)


def _blocks(path: str, unit: str) -> Iterator[tuple[str, int]]:
    """Yield whole lines of words, or of letters without spaces, each ended; and the number of the first one."""
    line = 1
    for number, block in enumerate(read_blocks(path, KIND)):
        check_utf8(block, path, line)
        text = block.decode().removeprefix("\ufeff" if number == 0 else "")
        text = text if text.endswith("\n") else text + "\n"
        yield text if unit == "word" else _spelled(text, path, line), line
        line += block.count(b"\n")


def _spelled(block: str, path: str, first_line: int) -> str:
    """Return lines of letters, with a mark after each word."""
    if WORD_END in block:
        line = first_line + block[: block.index(WORD_END)].count("\n")
        raise DataError(
            f"{path}:{line}: with --unit letter a text must not hold '|', which is put after each word; a text that is "
            "spelled already goes with --unit word"
        )
    lines = (line.split() for line in block.split("\n")[:-1])
    return "".join(WORD_END.join([*words, "\n"]) for words in lines)


def _word_encoder(dictionary: Dictionary) -> Callable[[str], IntArray]:
    end = f" {SPECIALS[dictionary.eos]} "

    def encode(text: str) -> IntArray:
        words: Iterable[str] = text.replace("\n", end).split()
        return np.fromiter(map(dictionary.index, words), dtype=np.int64)

    return encode


def _letter_encoder(dictionary: Dictionary) -> Callable[[str], IntArray]:
    table = np.full(0x110000, dictionary.unk, dtype=np.int64)
    for number, letter in enumerate(dictionary.symbols[len(SPECIALS) :], start=len(SPECIALS)):
        if len(letter) == 1:
            table[ord(letter)] = number
    table[ord("\n")] = dictionary.eos

    def encode(text: str) -> IntArray:
        result: IntArray = table[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
        return result

    return encode


def _refuse_specials(block: str, path: str, first_line: int) -> None:
    for number, line in enumerate(block.split("\n"), start=first_line):
        found = sorted(set(line.split()) & set(SPECIALS[:3]))
        if found:
            raise DataError(f"{path}:{number}: a text must not hold {found[0]!r}, which has a meaning of its own")
