"""Where the labels of a CTC model come from: a file that is named, the checkpoint, its folder, or the standard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.errors import CheckpointError

LETTERS = [*SPECIALS, *"|ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
"""The letters of the published English models, in their order."""


def find_symbols(
    path: Path, num_classes: int, *, given: str | None, inside: Sequence[str] | None, labels: str | None = "ltr"
) -> tuple[list[str], str]:
    """Return the labels of a model of `num_classes` symbols, and where they were found.

    Args:
        path: the checkpoint.
        num_classes: width of its output layer.
        given: dictionary file that the user named; it wins.
        inside: labels that the checkpoint holds.
        labels: extension of label files; `dict.LABELS.txt` is looked for beside the checkpoint. None: a language
            model, whose file is `dict.txt`.

    Raises:
        CheckpointError: nothing fits; the message says what was tried.
        DataError: a dictionary file breaks its format.
    """
    if given is not None:
        symbols = Dictionary.from_file(given).symbols
        if len(symbols) != num_classes:
            raise CheckpointError(f"--dict {given} holds {len(symbols)} symbols, {path} writes {num_classes}")
        return symbols, f"--dict {given}"
    if inside is not None and len(inside) == num_classes:
        return Dictionary.from_symbols(inside).symbols, "the checkpoint"
    beside = path.parent / ("dict.txt" if labels is None else f"dict.{labels}.txt")
    if beside.is_file():
        symbols = Dictionary.from_file(beside).symbols
        if len(symbols) == num_classes:
            return symbols, str(beside)
    if labels is None:
        found = f"{beside} holds {len(symbols)}" if beside.is_file() else f"there is no {beside}"
        raise CheckpointError(
            f"{path}: knows {num_classes} words and does not hold them, and {found}; put the dict.txt that it was "
            "trained with beside it, or name it with --dict"
        )
    if num_classes == len(LETTERS):
        return list(LETTERS), "the standard letter dictionary, because neither the checkpoint nor its folder has one"
    raise CheckpointError(
        f"{path}: holds no dictionary for its {num_classes} symbols, and neither {beside.name} beside it nor the "
        f"standard {len(LETTERS)} letters fit; name the file with --dict"
    )
