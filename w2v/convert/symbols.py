"""Where the labels of a CTC model come from: a file that is named, the checkpoint, its folder, or the standard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from w2v.convert.huggingface_symbols import read_vocabulary
from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.errors import CheckpointError

LETTERS = [*SPECIALS, *"|ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
"""The letters of the published English models, in their order."""


def find_symbols(
    path: Path,
    num_classes: int,
    *,
    given: str | None,
    inside: Sequence[str] | None,
    labels: str | None = "ltr",
    data: str | None = None,
    with_standard: bool = True,
) -> tuple[list[str], str]:
    """Return the labels of a model of `num_classes` symbols, and where they were found.

    Args:
        path: the checkpoint.
        num_classes: width of its output layer.
        given: dictionary file that the user named; it wins.
        inside: labels that the checkpoint holds.
        labels: extension of label files; `dict.LABELS.txt` is looked for in `data`, beside the checkpoint and in the
            folder above. None: a language model, whose file is `dict.txt`.
        data: folder of the data, which is where the original has it.
        with_standard: whether the standard letters may be meant. Not where the model's blank is another symbol.

    Raises:
        CheckpointError: nothing fits; the message says what was tried.
        DataError: a dictionary file breaks its format.
    """
    if given is not None:
        symbols = _read_given(given, num_classes)
        if len(symbols) != num_classes:
            raise CheckpointError(f"--dict {given} holds {len(symbols)} symbols, {path} writes {num_classes}")
        return symbols, f"--dict {given}"
    if inside is not None and len(inside) == num_classes:
        return Dictionary.from_symbols(inside).symbols, "the checkpoint"
    name = "dict.txt" if labels is None else f"dict.{labels}.txt"
    folders = [*([Path(data)] if data else []), path.parent, path.resolve().parent.parent]
    found = [folder / name for folder in folders if (folder / name).is_file()]
    others = []
    for place in found:
        symbols = Dictionary.from_file(place).symbols
        if len(symbols) == num_classes:
            return symbols, str(place)
        others.append(f"{place} holds {len(symbols)}")
    if labels is None:
        raise CheckpointError(
            f"{path}: knows {num_classes} words and does not hold them, and "
            f"{', '.join(others) or f'there is no {path.parent / name}'}; put the dict.txt that it was "
            "trained with beside it, or name it with --dict"
        )
    if num_classes == len(LETTERS) and with_standard and not others:
        return list(LETTERS), "the standard letter dictionary, because neither the checkpoint nor its folder has one"
    standard = f"the standard {len(LETTERS)} letters" + ("" if with_standard else " (its blank is another symbol)")
    raise CheckpointError(
        f"{path}: holds no dictionary for its {num_classes} symbols, and neither {name} beside it nor {standard} fit"
        f"{''.join(f' ({other})' for other in others)}; put {name} beside it, or name the file with --dict ({name}, or "
        "vocab.json), which w2v-convert and the programs that write text take"
    )


def _read_given(given: str, num_classes: int) -> list[str]:
    if not given.endswith(".json"):
        return Dictionary.from_file(given).symbols
    vocabulary = read_vocabulary(Path(given), {}, num_classes)
    if not vocabulary.is_in_order:
        raise CheckpointError(f"--dict {given}: its blank or special symbols have other numbers than the model's")
    return vocabulary.symbols
