"""What a set of transcripts is spelled with: texts brought into one form, and a table that shows what they hold.

Every symbol becomes an output of the model. One that cannot be seen, or that looks like another, is learnt as well,
never heard, and counted as an error for ever; so it is left out, refused, or at least named.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from w2v.data.dictionary import SPECIALS
from w2v.data.text import WORD_END
from w2v.errors import DataError, listed

RARE = 5  # occurrences below which a model has no chance to learn a symbol
NAMED = 8
MISSING = ("nan", "NaN", "None", "null", "NULL", "N/A", "#N/A", "<NA>")  # pandas, R, databases
MARKS_OF_OTHERS = (
    *("<blank>", "<blk>", "<eps>", "<b>", "<ctc>", "<space>", "[space]"),
    *("[pad]", "[unk]", "[cls]", "[sep]"),
)
_IN_BRACKETS = re.compile(r"\[[^\]]+\]|<[^>]+>|\{[^}]+\}|\([^)]+\)")
APOSTROPHES = "'\u2019\u02bc\u2018`\u00b4"
# Letters by their category that are drawn as nothing: fillers, joiners, variation selectors (Unicode's
# Default_Ignorable_Code_Point, less the category Cf).
_FILLERS = {
    0x34F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x3164,
    0xFFA0,
    0x2800,
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
}


def is_invisible(letter: str) -> bool:
    """Whether a code point is drawn as nothing, and is no white space."""
    category = unicodedata.category(letter)
    code = ord(letter)
    return (category in ("Cf", "Cc", "Cs", "Co", "Cn") or code in _FILLERS or 0xE0000 <= code < 0xE1000) and not (
        letter.isspace()
    )


@dataclass(frozen=True)
class Cleaning:
    """What is done to every text: `--lower`, `--upper`, `--nfc`, `--strip-punctuation`."""

    lower: bool = False
    upper: bool = False
    nfc: bool = False
    strip_punctuation: bool = False


@dataclass
class Dropped:
    """Something that was left out of texts: how often, and where first."""

    count: int = 0
    where: str = ""


@dataclass
class TextCleaner:
    """Brings texts into one form, and remembers what it has left out.

    Attributes:
        cleaning: what is asked for.
        dropped: what was left out, by name.
        letters: how often each code point has come up.
        separated: composed letter -> where it was first written in two code points.
        marks: words in brackets, which may stand for noises.
        empty: texts that are a program's word for a missing one, with the place of the first.
    """

    cleaning: Cleaning = field(default_factory=Cleaning)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    letters: Counter[str] = field(default_factory=Counter)
    separated: dict[str, str] = field(default_factory=dict)
    marks: Counter[str] = field(default_factory=Counter)
    empty: dict[str, Dropped] = field(default_factory=dict)

    def clean(self, text: str, where: str) -> str:
        """Return the words of a text, separated by single spaces.

        Args:
            text: as the corpus has it.
            where: `file:line`, for messages.

        Raises:
            DataError: the text holds `|`, which stands for the end of a word.
        """
        words = []
        if text.strip() in MISSING:
            self.empty.setdefault(text.strip(), Dropped(where=where)).count += 1
        self.marks.update(mark for mark in _IN_BRACKETS.findall(text) if mark not in SPECIALS)
        for word in text.split():
            if word in SPECIALS:
                self._drop(repr(word), where)
            else:
                words.append(word)
        text = " ".join(words)
        if self.cleaning.nfc:
            text = unicodedata.normalize("NFC", text)
        text = self._visible(text, where)
        text = text.lower() if self.cleaning.lower else text.upper() if self.cleaning.upper else text
        if self.cleaning.nfc and not text.isascii():
            text = unicodedata.normalize("NFC", text)  # lower case may take letters apart again
        if self.cleaning.strip_punctuation:
            text = _without_punctuation(text)
        if WORD_END in text:
            raise DataError(f"{where}: the text must not hold '|', which stands for the end of a word")
        for word in () if text.isascii() else text.split():
            for letter in set(unicodedata.normalize("NFC", word)) - set(word):
                self.separated.setdefault(letter, where)
        self.letters.update(text)
        return " ".join(text.split())

    def check_forms(self) -> None:
        """Check that no letter is written in two ways.

        Raises:
            DataError: one is, composed in some texts and as letter and mark in others.
        """
        for letter, where in self.separated.items():
            if letter in self.letters:
                apart = _codes(unicodedata.normalize("NFD", letter))
                raise DataError(
                    f"{where}: {letter!r} is written in two forms, {apart} here and {_codes(letter)} elsewhere, which "
                    "would become two symbols; --nfc makes them one"
                )

    def report(self) -> list[str]:
        """Return one line for each thing that was left out."""
        lines = [f"left out {name}: {gone.count} times, first in {gone.where}" for name, gone in self.dropped.items()]
        lines += [
            f"whole texts that are {text!r}, as programs write a missing one: {found.count}, first in {found.where}"
            for text, found in self.empty.items()
        ]
        if self.marks:
            shown = listed([f"{word} ({count})" for word, count in self.marks.most_common()], NAMED)
            lines.append(
                f"words in brackets, spelled like others: {shown}; where they stand for noises, take them out of the "
                "texts (--strip-punctuation takes the brackets alone)"
            )
        return lines

    def _visible(self, text: str, where: str) -> str:
        if text.isascii() and text.isprintable():
            return text
        for letter in text:
            if is_invisible(letter):
                self._drop(f"invisible {_codes(letter)} {unicodedata.name(letter, '')}".rstrip(), where)
        return "".join(letter for letter in text if not is_invisible(letter))

    def _drop(self, name: str, where: str) -> None:
        gone = self.dropped.setdefault(name, Dropped(where=where))
        gone.count += 1


def _without_punctuation(text: str) -> str:
    """Return letters, marks, digits and spaces; apostrophes stay within words, dashes and slashes part them."""
    kept = []
    for place, letter in enumerate(text):
        kind = unicodedata.category(letter)
        if letter in APOSTROPHES:
            inside = text[place - 1 : place].isalpha() and text[place + 1 : place + 2].isalpha()
            kept.append("'" if inside else "")
        elif kind == "Pd" or letter in "/\\_":
            kept.append(" ")
        elif kind[0] not in "PS":
            kept.append(letter)
    return "".join(kept)


def _codes(text: str) -> str:
    return " ".join(f"U+{ord(letter):04X}" for letter in text)


# ---------------------------------------------------------------------------------------------- the table


def symbol_table(counts: Mapping[str, int]) -> list[str]:
    """Return one line per symbol, the most frequent one first: symbol, count, names of its code points."""
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    width = max((len(str(count)) for _, count in rows), default=1)
    return [f"{_shown(symbol)}\t{count:>{width}}\t{_names(symbol)}" for symbol, count in rows]


def _shown(symbol: str) -> str:
    # A mark alone would be drawn on whatever stands before it.
    return f"\u25cc{symbol}" if unicodedata.combining(symbol[0]) else symbol


def _names(symbol: str) -> str:
    if symbol == WORD_END:
        return "end of a word"
    return " + ".join(unicodedata.name(letter, _codes(letter)) for letter in symbol)


def symbol_notes(counts: Mapping[str, int], cleaner: TextCleaner) -> list[str]:
    """Return one line for each group of symbols that a model would better not have to learn."""
    letters = [symbol for symbol in counts if symbol != WORD_END]
    groups = {
        f"rare (fewer than {RARE} times)": [s for s in letters if counts[s] < RARE],
        "digits (write numbers as words)": [s for s in letters if unicodedata.category(s[0])[0] == "N"],
        "punctuation (--strip-punctuation leaves it out)": [
            s for s in letters if unicodedata.category(s[0])[0] in "PS" and s not in APOSTROPHES
        ],
        "several apostrophes (--strip-punctuation makes them one)": _if_several(letters, APOSTROPHES),
        "both cases, which are two symbols (--lower or --upper)": _both_cases(letters),
        "marks apart from their letters (--nfc joins them)": [s for s in letters if unicodedata.combining(s[0])],
        "one letter in two forms": _same_letters(letters),
        "letters of several alphabets that look alike": _look_alikes(letters),
    }
    notes = [f"{title}: {listed(list(map(_shown, found)), NAMED, ' ')}" for title, found in groups.items() if found]
    return cleaner.report() + notes


def dictionary_notes(symbols: Sequence[str]) -> list[str]:
    """Return one line for each group of symbols of a dictionary that no label will ever, or should ever, hold."""
    forms: dict[str, list[str]] = {}
    for symbol in symbols:
        forms.setdefault(unicodedata.normalize("NFC", symbol), []).append(symbol)
    doubled = [" and ".join(map(_codes, found)) for found in forms.values() if len(set(found)) > 1]
    unseen = [f"{_codes(symbol)} {symbol!r}" for symbol in symbols if any(map(is_invisible, symbol))]
    foreign = [repr(symbol) for symbol in symbols if symbol.lower() in MARKS_OF_OTHERS]
    groups = {
        "symbols that are written alike, in two forms (w2v-labels --nfc writes one)": doubled,
        "symbols with what cannot be seen": unseen,
        f"marks of other programs, which are letters here: the blank is <s>, and {WORD_END!r} ends a word": foreign,
    }
    return [f"{title}: {listed(found, NAMED)}" for title, found in groups.items() if found]


def _if_several(letters: list[str], kinds: str) -> list[str]:
    found = [s for s in letters if s in kinds]
    return found if len(found) > 1 else []


def _both_cases(letters: list[str]) -> list[str]:
    present = set(letters)
    return [s for s in letters if s != s.lower() and s.lower() in present]


def _same_letters(letters: list[str]) -> list[str]:
    """Return letters whose compatibility form is another one of the set: wide, presentation and styled forms."""
    present = set(letters)
    return [s for s in letters if unicodedata.normalize("NFKC", s) != s and unicodedata.normalize("NFKC", s) in present]


# Latin letters and the Cyrillic and Greek ones that are drawn the same.
_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a7\u03bf",
    "aeopcyxiABEKMHOPCTXABEHIKMNOPTXo",
)


def _look_alikes(letters: list[str]) -> list[str]:
    present = set(letters)
    return [s for s in letters if s.translate(_ALIKE) != s and s.translate(_ALIKE) in present]
