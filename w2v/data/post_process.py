"""From symbols of a model to readable words (`--post-process`, in older spelling `--remove-bpe`)."""

from __future__ import annotations


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
