"""The symbols that a model can write, and their numbers.

The file is the original's: `symbol count` per line, split at the last space. Four special symbols come first: `<s>`
(also the CTC blank), `<pad>`, `</s>`, `<unk>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from w2v.data.text_file import read_lines
from w2v.errors import DataError
from w2v.files import write_atomically

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
OVERWRITE = "#fairseq:overwrite"
MASK = "<mask>"
"""What stands for a hidden token in a masked language model: its last symbol, and never in the file."""
FILLER = "madeupword{:04d}"
"""Symbols that the original fills a dictionary up with."""


class Dictionary:
    """Symbols in order of their ids.

    Args:
        symbols: all symbols, the four specials first.
        counts: how often each occurs, as the file says; None: not known, 1 each.

    Attributes:
        symbols: all symbols, the four specials included; a symbol's id is its place here.
        counts: as many numbers.
        bos: id of `<s>`, which is also the CTC blank.
        pad: id that fills target rows up to the longest.
        eos: id of `</s>`.
        unk: id of every symbol not in the dictionary.
    """

    bos, pad, eos, unk = range(4)

    def __init__(self, symbols: Sequence[str], counts: Sequence[int] | None = None) -> None:
        if tuple(symbols[:4]) != SPECIALS:
            raise DataError(f"a dictionary must begin with {' '.join(SPECIALS)}, got {list(symbols[:4])}")
        self.symbols = list(symbols)
        self.counts = [1] * len(self.symbols) if counts is None else list(counts)
        self._ids: dict[str, int] = {}
        for number, symbol in enumerate(self.symbols):
            self._ids[symbol] = number
        # Outputs that nothing names are <unk>, too; labels never mean them.
        self._ids[SPECIALS[self.unk]] = self.unk

    @classmethod
    def from_symbols(cls, symbols: Sequence[str]) -> Dictionary:
        """Build a dictionary from its symbols; the four specials may be left out.

        Raises:
            DataError: a symbol occurs twice, other than `<unk>`, which outputs without a name are called.
        """
        rest = list(symbols[4:]) if tuple(symbols[:4]) == SPECIALS else list(symbols)
        unnamed = SPECIALS[cls.unk]
        twice = [symbol for symbol, count in Counter([*SPECIALS, *rest]).items() if count > 1 and symbol != unnamed]
        if twice:
            raise DataError(f"the dictionary holds {twice[0]!r} twice")
        return cls([*SPECIALS, *rest])

    @classmethod
    def from_file(cls, path: str | Path) -> Dictionary:
        """Read a dictionary file.

        Raises:
            DataError: the file is missing or empty, or a line breaks the format; named as file:line.
        """
        symbols, counts = list(SPECIALS), [1] * len(SPECIALS)
        lines: dict[str, int] = {}
        for number, line in enumerate(read_lines(path, "dictionary"), start=1):
            text = line.rstrip()
            if not text:
                raise DataError(f"{path}:{number}: must be a symbol, a space and a count, got an empty line")
            overwrite = text.endswith(" " + OVERWRITE)
            symbol, _, count = text.removesuffix(" " + OVERWRITE).rpartition(" ")
            if not symbol or not (count.isascii() and count.removeprefix("-").isdecimal()):
                raise DataError(f"{path}:{number}: must be a symbol, a space and a count, got {text!r}")
            if any(letter.isspace() for letter in symbol):
                # Labels are split at white space, so no label could ever be this symbol.
                raise DataError(f"{path}:{number}: a symbol must not hold white space, got {symbol!r} in {text!r}")
            if symbol in lines and not overwrite:
                raise DataError(
                    f"{path}:{number}: {symbol!r} is in line {lines[symbol]} already; end the line in {OVERWRITE}"
                )
            if symbol in SPECIALS and not overwrite:
                # The original's advice, to overwrite it, would give it a second number.
                raise DataError(
                    f"{path}:{number}: {symbol!r} is in the four special symbols already, which no dictionary lists; "
                    "leave the line out"
                )
            lines[symbol] = number
            symbols.append(symbol)
            counts.append(int(count))
        if not lines:
            raise DataError(f"{path}: lists no symbols")
        return cls(symbols, counts)

    def with_mask(self) -> Dictionary:
        """Return the dictionary of a masked language model: this one, and `<mask>` as its last symbol."""
        if MASK in self._ids:
            return self
        return Dictionary([*self.symbols, MASK], [*self.counts, 1])

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dictionary) and self.symbols == other.symbols

    __hash__ = None  # type: ignore[assignment]

    def index(self, symbol: str) -> int:
        """Return the id of `symbol`, `unk` where it is not in the dictionary."""
        return self._ids.get(symbol, self.unk)

    def encode(self, line: str) -> list[int]:
        """Return the ids of symbols separated by white space; no end symbol is added."""
        return [self._ids.get(symbol, self.unk) for symbol in line.split()]

    def string(self, ids: Iterable[int]) -> str:
        """Return symbols joined by spaces, without `<s>` and `</s>`; `<pad>` and `<unk>` stay, as in the original."""
        return " ".join(self.symbols[number] for number in map(int, ids) if number not in (self.bos, self.eos))


def write_dictionary(
    path: str | Path, counts: Mapping[str, int], *, threshold: int = 0, most: int = -1, padding_factor: int = 1
) -> None:
    """Write a dictionary file: the most frequent symbol first, equal counts in order of the symbols.

    Args:
        path: the file.
        counts: how often each symbol occurs; the four special ones are not written.
        threshold: leave out symbols that are rarer.
        most: keep so many, the four special ones counted; -1: all.
        padding_factor: fill up, with symbols that never occur, to a multiple of this, the special ones counted.
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ordered = [(symbol, count) for symbol, count in ordered if symbol not in SPECIALS]
    if most >= 0:
        ordered = ordered[: max(most - len(SPECIALS), 0)]
    ordered = [(symbol, count) for symbol, count in ordered if count >= threshold]
    missing = -(len(ordered) + len(SPECIALS)) % padding_factor
    ordered += [(FILLER.format(number), 0) for number in range(missing)]
    write_atomically(path, "".join(f"{symbol} {count}\n" for symbol, count in ordered).encode())
