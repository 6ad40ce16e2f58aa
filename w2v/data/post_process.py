"""From symbols of a model to readable words (`--post-process`, in older spelling `--remove-bpe`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MARKS = {"letter": "|", "sentencepiece": "\u2581", "wordpiece": "_", "_EOW": "_EOW"}
"""Names of word marks, and the marks."""
NOT_SAID = "<unk>"
"""What a model writes where it knows no symbol. It is never right, whatever a reference says."""

_SPECIAL = re.compile(r"<(?:s|pad|/s|unk)(?::\d+)?>")
"""A special symbol, also with the number that a surplus one of a Hugging Face vocabulary has behind its name."""
_ESCAPED = re.compile(r"<U\+([0-9A-F]{4,6})>")
"""A character that cannot stand in a dictionary."""


def readable(text: str) -> str:
    """Return a word or a symbol as people read it: without special symbols, and without names for characters.

    A model may write `<unk>` for a sound that it has no symbol for. Scoring keeps it, since it is an error; in text
    for people it says nothing. Same as `skip_special_tokens` of transformers.
    """
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), _SPECIAL.sub("", text))


def fitting_post_process(symbol: str, symbols: Iterable[str]) -> str:
    """Return how the symbols of a dictionary become words, where nobody has said it.

    A dictionary without the word mark (of phones, or of Chinese characters) keeps its symbols apart: `none`.

    Args:
        symbol: what the checkpoint says, which may be the original's default.
        symbols: the dictionary.
    """
    mark = MARKS.get(symbol)
    return symbol if mark is None or any(mark in text for text in symbols) else "none"


def post_process(text: str, symbol: str | None) -> str:
    """Join the symbols of `text` into words.

    Args:
        text: symbols separated by spaces, such as `T H E | C A T |`.
        symbol: `letter` (`|` ends a word), `sentencepiece` (U+2581 begins one), `wordpiece` (`_` begins one),
            `_EOW` (ends one), `none` or None (leave the text as it is), or else a mark to delete, such as `@@ `.

    Returns:
        The text. `letter` keeps the two spaces that an empty word leaves, as the original does.
    """
    if symbol is None or symbol == "none":
        return text
    if symbol in MARKS:
        return text.replace(" ", "").replace(MARKS[symbol], " ").strip()
    return (text + " ").replace(symbol, "").rstrip()


def word_of_each(units: Sequence[str], symbol: str | None) -> list[int | None]:
    """Return, for each symbol, the number of the word to which it gives letters; None where it gives none.

    Args:
        units: the symbols, such as `T H E | C A T |`; an empty text gives no letters.
        symbol: as in `post_process`.
    """
    if symbol in ("letter", "sentencepiece", "wordpiece"):
        return _by_mark(units, MARKS[symbol])
    places: list[int | None] = []
    num_letters = 0
    # What a symbol does may depend on its neighbours (`@@ `), so each prefix is read as a whole.
    for end in range(1, len(units) + 1):
        words = post_process(" ".join(filter(None, units[:end])), symbol).split()
        letters = sum(map(len, words))
        places.append(len(words) - 1 if letters > num_letters else None)
        num_letters = letters
    return places


def _by_mark(units: Sequence[str], mark: str) -> list[int | None]:
    """Do what `word_of_each` does where one character parts words: each unit by itself, in linear time."""
    places: list[int | None] = []
    num_words, is_open = 0, False
    for unit in units:
        has_letters = False
        for number, part in enumerate("".join(unit.split()).split(mark)):
            if number:
                is_open = False
            if part:
                num_words += not is_open
                is_open = has_letters = True
        places.append(num_words - 1 if has_letters else None)
    return places
