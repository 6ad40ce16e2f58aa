"""A written text in the symbols of a dictionary, for alignment: letters, pieces of words, or whole words.

A text is written for people: other case, typographic apostrophes, accents in two characters, numerals, punctuation.
What the dictionary has under another form is spelled with that form; what sounds and cannot be spelled (`$13.60`)
becomes a wildcard; what is silent is left out. Every character that the dictionary lacks is counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.data.post_process import MARKS

WILDCARD = -1  # stands for sounds that the dictionary cannot spell
STARS = ("*", "<star>")

# Inside a word that is parted into symbols: its beginning and end, where the dictionary marks them, and a wildcard.
_BEGIN, _END, _WILD = "\1", "\2", "\3"

# Characters of one meaning; the first is the one that dictionaries hold.
_LOOK_ALIKES = ("'’‘ʼ′`´＇‛", "-‐‑‒–—―−﹣－")
_PLAIN = {other: group[0] for group in _LOOK_ALIKES for other in group[1:]}


@dataclass(frozen=True)
class Symbol:
    """One label of a spelled word.

    Attributes:
        label: its column, or `WILDCARD`.
        text: the letters it stands for; empty for a mark between words and for a wildcard.
    """

    label: int
    text: str


@dataclass(frozen=True)
class SpelledWord:
    """One word of a text.

    Attributes:
        text: as it is written.
        symbols: what is said; empty where nothing is (a dash between spaces).
    """

    text: str
    symbols: tuple[Symbol, ...]

    @property
    def is_star(self) -> bool:
        """Whether it is no word, but stands for anything that was said here."""
        return self.text in STARS


@dataclass(frozen=True)
class SpelledText:
    """A text in symbols.

    Attributes:
        lines: the words of each line that has any.
        missing: characters that the dictionary lacks, and how often they occur.
        num_letters: letters and numerals of the text.
        num_spelled: those that the dictionary has, in any form.
    """

    lines: list[list[SpelledWord]]
    missing: Counter[str]
    num_letters: int
    num_spelled: int


class Speller:
    """Spells words with the symbols of a dictionary.

    Args:
        dictionary: the symbols.
        post_process: how they become words, as in `data.post_process`.
    """

    def __init__(self, dictionary: Dictionary, post_process: str | None) -> None:
        kind = post_process or "none"
        self._pieces = {
            piece: label
            for label, symbol in enumerate(dictionary.symbols)
            if symbol not in SPECIALS
            for piece in _pieces(symbol, kind)
        }
        self._longest = max(map(len, self._pieces), default=1)
        self._letters = {letter for piece in self._pieces for letter in piece} - {_BEGIN, _END}
        self._variants: dict[str, tuple[str, bool]] = {}

    def spell(self, lines: Sequence[str]) -> SpelledText:
        """Spell the words of a text; lines without words are left out."""
        words = [line.split() for line in lines]
        counts = Counter(letter for line in words for word in line if word not in STARS for letter in _composed(word))
        spelled = {word: SpelledWord(word, self._symbols(word)) for word in {word for line in words for word in line}}
        missing = Counter({letter: count for letter, count in counts.items() if not self._variant(letter)[1]})
        sounding = {letter: count for letter, count in counts.items() if unicodedata.category(letter)[0] in "LN"}
        lost = sum(count for letter, count in sounding.items() if self._variant(letter)[0] == _WILD)
        total = sum(sounding.values())
        return SpelledText([[spelled[word] for word in line] for line in words if line], missing, total, total - lost)

    def _symbols(self, word: str) -> tuple[Symbol, ...]:
        if word in STARS:
            return ()
        spoken = "".join(self._variant(letter)[0] for letter in _composed(word))
        # One wildcard stands for any number of sounds, as in `$13.60`.
        spoken = re.sub(f"{_WILD}[{_WILD} ]*{_WILD}", _WILD, spoken)
        symbols: list[Symbol] = []
        for part in spoken.split():
            for symbol in self._cover(_BEGIN + part + _END):
                if symbol.label != WILDCARD or not symbols or symbols[-1].label != WILDCARD:
                    symbols.append(symbol)
        return tuple(symbols)

    def _variant(self, letter: str) -> tuple[str, bool]:
        """Return what is spelled in place of a character, and whether the dictionary has it, be it in another form."""
        if letter not in self._variants:
            self._variants[letter] = self._find_variant(letter)
        return self._variants[letter]

    def _find_variant(self, letter: str) -> tuple[str, bool]:
        for form in (letter, _PLAIN.get(letter, ""), unicodedata.normalize("NFKC", letter)):
            if found := self._cased(form):
                return found, True
        # `é` is nearer to `e` than to nothing.
        parts = unicodedata.normalize("NFKD", letter)
        if found := self._cased("".join(part for part in parts if not unicodedata.combining(part))):
            return found, False
        kind = unicodedata.category(letter)
        if kind[0] in "LN" or kind in ("Sc", "Sm"):
            return (" " if letter == "|" else _WILD), False
        # `well-known` is heard as two words; `don't` as one.
        return (" " if kind[0] == "P" and _PLAIN.get(letter, letter) != "'" else ""), False

    def _cased(self, form: str) -> str:
        """Return a text in the case in which the dictionary has all its letters; empty: it has not."""
        for cased in (form, form.upper(), form.lower()):
            if all(letter in self._letters for letter in cased):
                return cased
        return ""

    def _cover(self, text: str) -> list[Symbol]:
        """Part a word into as few symbols as can be; a letter that no symbol covers becomes a wildcard."""
        # Of the first n letters: (letters not covered, marks left out, symbols), and the size of the last symbol or 0.
        best: list[tuple[tuple[int, int, int], int]] = [((0, 0, 0), 0)]
        for end in range(1, len(text) + 1):
            is_mark = text[end - 1] in (_BEGIN, _END)
            lost, left_out, count = best[end - 1][0]
            ways = [((lost + (not is_mark), left_out + is_mark, count), 0)]
            for size in range(1, min(self._longest, end) + 1):
                if text[end - size : end] in self._pieces:
                    lost, left_out, count = best[end - size][0]
                    ways.append(((lost, left_out, count + 1), size))
            best.append(min(ways))
        symbols: list[Symbol] = []
        end = len(text)
        while end:
            size = max(best[end][1], 1)
            piece = text[end - size : end]
            if best[end][1]:
                symbols.append(Symbol(self._pieces[piece], piece.strip(_BEGIN + _END)))
            elif piece not in (_BEGIN, _END):
                symbols.append(Symbol(WILDCARD, ""))
            end -= size
        return symbols[::-1]


def _composed(word: str) -> str:
    """Return a word whose accents are parts of their letters."""
    return unicodedata.normalize("NFC", word)


def _pieces(symbol: str, kind: str) -> list[str]:
    """Return what a symbol stands for within a word; nothing where it is of no use."""
    if kind == "letter":
        return [_END] if symbol == "|" else [symbol] if len(symbol) == 1 else []
    if kind in ("sentencepiece", "wordpiece"):
        mark = MARKS[kind]
        return [_BEGIN + symbol[1:] if symbol.startswith(mark) else symbol]
    if kind == "_EOW":
        return [symbol.removesuffix(kind) + _END if symbol.endswith(kind) else symbol]
    if kind == "none":
        # Words, or letters (of Chinese, say) without a mark between words.
        return [_BEGIN + symbol + _END, symbol]
    continued = kind.strip()  # such as `@@ `
    return [symbol.removesuffix(continued) if symbol.endswith(continued) else symbol + _END]
