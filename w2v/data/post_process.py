"""From symbols of a model to readable words (`--post-process`, in older spelling `--remove-bpe`)."""

from __future__ import annotations

from collections.abc import Sequence


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
    marks = {"letter": "|", "sentencepiece": "\u2581", "wordpiece": "_", "_EOW": "_EOW"}
    if symbol in marks:
        return text.replace(" ", "").replace(marks[symbol], " ").strip()
    return (text + " ").replace(symbol, "").rstrip()


def word_of_each(units: Sequence[str], symbol: str | None) -> list[int | None]:
    """Return, for each symbol, the number of the word to which it gives letters; None where it gives none.

    Args:
        units: the symbols, such as `T H E | C A T |`; an empty text gives no letters.
        symbol: as in `post_process`.
    """
    places: list[int | None] = []
    num_letters = 0
    # What a symbol does may depend on its neighbours (`@@ `), so each prefix is read as a whole.
    for end in range(1, len(units) + 1):
        words = post_process(" ".join(filter(None, units[:end])), symbol).split()
        letters = sum(map(len, words))
        places.append(len(words) - 1 if letters > num_letters else None)
        num_letters = letters
    return places
