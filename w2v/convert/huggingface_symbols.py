"""Labels of a Hugging Face CTC model: `vocab.json`, the blank, and the order of its output layer.

Their blank is the padding token, ours is `<s>`; both are symbol 0 in the published models, so that only names differ.
Where a vocabulary has another order, the rows of the output layer are put into ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.data.dictionary import SPECIALS
from w2v.errors import CheckpointError

VOCABULARY = "vocab.json"
MAX_JSON = 16 << 20
UNWRITTEN = -1e4
"""Bias of a symbol that the model cannot write: far below all others, and finite in half precision."""
DEFAULT_TOKENS = {
    "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "word_delimiter_token": "|",
}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """Labels in our order.

    Attributes:
        symbols: the four specials first.
        rows: their row for each of them; None where they have none.
    """

    symbols: list[str]
    rows: list[int | None]

    @property
    def is_in_order(self) -> bool:
        """Whether their rows are ours."""
        return self.rows == list(range(len(self.rows)))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: there is no such file, or it is none.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path}: is larger than {MAX_JSON >> 20} MB")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise CheckpointError(f"{path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path}: is no JSON ({str(e)[:80]})") from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold an object, got a {type(value).__name__}")
    return value


def read_vocabulary(folder: Path, config: Mapping[str, Any], num_classes: int) -> Vocabulary | None:
    """Read `vocab.json`; None where there is none.

    Raises:
        CheckpointError: it does not name the model's symbols.
    """
    path = folder / VOCABULARY
    if not path.is_file():
        return None
    ids = {**read_json(path)}
    if (folder / "added_tokens.json").is_file():
        ids |= read_json(folder / "added_tokens.json")
    tokens: dict[int, str] = {}
    for token, number in ids.items():
        if type(number) is not int or number < 0:
            raise CheckpointError(
                f"{path}: must give each symbol a number, got {str(number)[:40]!r} for {token[:40]!r}"
            )
        if number < num_classes:
            tokens[number] = token
    missing = [number for number in range(num_classes) if number not in tokens]
    if missing:
        raise CheckpointError(f"{path}: names no symbol for output {missing[0]} of {num_classes}")
    names = _special_tokens(folder)
    number_of = {token: number for number, token in tokens.items()}
    blank = config.get("pad_token_id")
    if type(blank) is not int or blank not in tokens:
        blank = number_of.get(names["pad_token"])
    if blank is None:
        raise CheckpointError(f"{path}: names no blank: neither pad_token_id nor {names['pad_token']!r} is in it")
    rows: list[int | None] = [blank]
    for role in ("bos_token", "eos_token", "unk_token"):
        number = number_of.get(names[role])
        rows.append(None if number in rows else number)
    rest = [number for number in range(num_classes) if number not in rows]
    delimiter = names["word_delimiter_token"]
    symbols = ["|" if tokens[number] == delimiter else tokens[number] for number in rest]
    odd = [symbol for symbol in symbols if not symbol.strip() or symbol.split() != [symbol] or symbol in SPECIALS]
    if odd:
        raise CheckpointError(f"{path}: the symbol {odd[0][:40]!r} cannot be used here")
    return Vocabulary([*SPECIALS, *symbols], [*rows, *rest])


def _special_tokens(folder: Path) -> dict[str, str]:
    names = dict(DEFAULT_TOKENS)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / file).is_file():
            continue
        content = read_json(folder / file)
        for role in names:
            value = content.get(role)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                names[role] = value
    return names


def reorder(state: dict[str, Tensor], vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Put the rows of the output layer into our order; a symbol without a row is never written."""
    weight, bias = state["w2v_encoder.proj.weight"], state["w2v_encoder.proj.bias"]
    new_weight = weight.new_zeros(len(vocabulary.rows), weight.shape[1])
    new_bias = torch.full((len(vocabulary.rows),), UNWRITTEN, dtype=bias.dtype)
    for number, row in enumerate(vocabulary.rows):
        if row is not None:
            new_weight[number], new_bias[number] = weight[row], bias[row]
    return {**state, "w2v_encoder.proj.weight": new_weight, "w2v_encoder.proj.bias": new_bias}


def tokenizer_files(symbols: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the files of a tokenizer by name: the blank, our `<s>`, is their `<pad>`, and the other way round."""
    names = {"<s>": "<pad>", "<pad>": "<s>"}
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return {
        VOCABULARY: {names.get(symbol, symbol): number for number, symbol in enumerate(symbols)},
        "special_tokens_map.json": tokens,
        "tokenizer_config.json": {
            **tokens,
            "do_lower_case": False,
            "word_delimiter_token": "|",
            "replace_word_delimiter_char": " ",
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
        },
    }
