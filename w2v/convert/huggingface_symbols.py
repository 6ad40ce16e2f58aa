"""Labels of a Hugging Face CTC model: `vocab.json`, the blank, and the order of its output layer.

Their blank is the padding token, ours is `<s>`; both are symbol 0 in the published models, so that only names differ.
Where a vocabulary has another order, the rows of the output layer are put into ours. What people upload is taken as
transformers takes it: names that cannot stand in a dictionary here are changed, and no output is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.data.dictionary import SPECIALS
from w2v.data.text import WORD_END
from w2v.errors import CheckpointError, listed
from w2v.files.pointer import refuse_pointer

VOCABULARY = "vocab.json"
FAST_TOKENIZER = "tokenizer.json"
"""Of tokenizers that were saved as fast ones, which have no VOCABULARY."""
TOKENIZER = "tokenizer_config.json"
PHONEMES = "Wav2Vec2PhonemeCTCTokenizer"
LETTERS = "Wav2Vec2CTCTokenizer"
MAX_JSON = 16 << 20
UNWRITTEN = -1e4
"""Bias of a symbol that the model cannot write: far below all others, and finite in half precision."""
UNNAMED = "<unk>"
GLUED = " "
"""`--post-process` that only takes the spaces away: their tokenizer without a word delimiter."""
DEFAULT_TOKENS: dict[str, str | None] = {
    "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "word_delimiter_token": "|",
}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """Labels in our order.

    Attributes:
        path: the file.
        symbols: the four specials first.
        rows: their row for each of them; None where they have none.
        post_process: how symbols become words.
        notes: which names were changed.
    """

    path: Path
    symbols: list[str]
    rows: list[int | None]
    post_process: str
    notes: list[str]

    @property
    def is_in_order(self) -> bool:
        """Whether their rows are ours."""
        return self.rows == list(range(len(self.rows)))


@dataclass(frozen=True)
class _Tokenizer:
    """The settings of their tokenizer that matter here.

    Attributes:
        tokens: role -> token, such as `pad_token`; None: there is none.
        added: token -> number, of tokens that `vocab.json` lacks.
        is_phonemes: its symbols are phones, which are kept apart.
        lower: texts are written in lower case.
        between_words: what stands between two words.
        language: of a vocabulary of several languages.
    """

    tokens: dict[str, str | None]
    added: dict[str, Any]
    is_phonemes: bool
    lower: bool
    between_words: str
    language: str | None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: there is no such file, or it is none.
    """
    try:
        refuse_pointer(path, CheckpointError)
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path}: is larger than {MAX_JSON >> 20} MB")
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise CheckpointError(f"{path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path}: is no JSON ({str(e)[:80]})") from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold an object, got a {type(value).__name__}")
    return value


def find_vocabulary(folder: Path) -> Path | None:
    """Return `vocab.json` of a folder, or of the one above: a Trainer's `checkpoint-500` may lie below its own."""
    places = (place / name for place in (folder, folder.parent) for name in (VOCABULARY, FAST_TOKENIZER))
    return next((place for place in places if place.is_file()), None)


def languages_of(vocabulary: Path) -> list[str]:
    """Return the languages of a `vocab.json` that holds one vocabulary for each; [] where it is a single one."""
    content = _content(vocabulary)
    return list(content) if content and all(isinstance(part, dict) for part in content.values()) else []


def target_language(folder: Path) -> str | None:
    """Return the language that the tokenizer of a folder is set to."""
    return _read_tokenizer(folder).language


def read_vocabulary(path: Path, config: Mapping[str, Any], num_classes: int, language: str | None = None) -> Vocabulary:
    """Read `vocab.json` and the tokenizer's settings beside it.

    Args:
        path: the file.
        config: the content of `config.json`, which may name the blank.
        num_classes: outputs of the model.
        language: which part of a vocabulary of several languages; None: what the tokenizer names.

    Raises:
        CheckpointError: it names no blank, or is malformed.
    """
    tokenizer = _read_tokenizer(path.parent)
    numbers = _numbers_of(path, tokenizer, language)
    tokens = {number: token for token, number in numbers.items() if number < num_classes}
    number_of = {token: number for number, token in tokens.items()}
    blank = config.get("pad_token_id")
    # CTC was trained with this number as its blank, whatever it is called.
    if type(blank) is not int or not 0 <= blank < num_classes or not tokens:
        blank = number_of.get(tokenizer.tokens["pad_token"] or "")
    if blank is None:
        pad = tokenizer.tokens["pad_token"]
        raise CheckpointError(f"{path}: names no blank: neither pad_token_id nor {pad!r} is in it")
    rows: list[int | None] = [blank]
    for role in ("bos_token", "eos_token", "unk_token"):
        number = number_of.get(tokenizer.tokens[role] or "")
        rows.append(None if number in rows else number)
    rest = [number for number in range(num_classes) if number not in rows]
    names = [tokens.get(number) for number in rest]
    symbols, post_process, notes = _named(names, rest, tokenizer)
    return Vocabulary(path, [*SPECIALS, *symbols], [*rows, *rest], post_process, notes)


def _content(path: Path) -> dict[str, Any]:
    """Return what `vocab.json` holds, or the same of `tokenizer.json`."""
    content = read_json(path)
    if path.name != FAST_TOKENIZER:
        return content
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        raise CheckpointError(f"{path}: holds no vocabulary of symbols and their numbers; name one with --dict")
    entries = [entry for entry in (added if isinstance(added, list) else ()) if isinstance(entry, dict)]
    return {**vocabulary, **{str(entry.get("content")): entry.get("id") for entry in entries}}


def _numbers_of(path: Path, tokenizer: _Tokenizer, language: str | None) -> dict[str, int]:
    content = _content(path)
    if content and all(isinstance(part, dict) for part in content.values()):
        chosen = language or tokenizer.language or (next(iter(content)) if len(content) == 1 else None)
        if chosen not in content:
            raise CheckpointError(
                f"{path}: holds vocabularies of {len(content)} languages ({listed(list(content), 8)}), and the "
                "tokenizer names none of them; name one with --language"
            )
        content = content[chosen]
        # Added tokens are those of the tokenizer's own language: in another one their numbers mean something else.
        taken = set(content.values())
        content = {**{token: n for token, n in tokenizer.added.items() if n not in taken}, **content}
        tokenizer = replace(tokenizer, added={})
    numbers = {**content, **tokenizer.added}
    for token, number in numbers.items():
        if type(number) is not int or number < 0:
            raise CheckpointError(
                f"{path}: must give each symbol a number, got {str(number)[:40]!r} for {token[:40]!r}"
            )
    return numbers


def _read_tokenizer(folder: Path) -> _Tokenizer:
    tokens, settings, added = dict(DEFAULT_TOKENS), {}, {}
    if (folder / "added_tokens.json").is_file():
        added = read_json(folder / "added_tokens.json")
    for file in ("special_tokens_map.json", TOKENIZER):
        if not (folder / file).is_file():
            continue
        settings = read_json(folder / file)
        for role in tokens:
            value = settings.get(role, tokens[role])
            value = value.get("content") if isinstance(value, dict) else value
            tokens[role] = value if isinstance(value, str) else None
    entries = settings.get("added_tokens_decoder")
    for number, entry in entries.items() if isinstance(entries, dict) else ():
        if str(number).isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            added.setdefault(entry["content"], int(number))
    between, language = settings.get("replace_word_delimiter_char"), settings.get("target_lang")
    return _Tokenizer(
        tokens=tokens,
        added=added,
        is_phonemes=settings.get("tokenizer_class") == PHONEMES,
        lower=settings.get("do_lower_case") is True,
        between_words=between if isinstance(between, str) else " ",
        language=language if isinstance(language, str) else None,
    )


def _named(
    names: Sequence[str | None], numbers: Sequence[int], tokenizer: _Tokenizer
) -> tuple[list[str], str, list[str]]:
    """Return symbols that a dictionary here can hold, how they become words, and what was changed."""
    mark = tokenizer.tokens["word_delimiter_token"]
    if mark not in names:
        # Vocabularies counted from texts keep the space.
        mark = " " if " " in names else None
    between = tokenizer.between_words
    written = between if between.split() == [between] else WORD_END
    taken, symbols, notes = set(SPECIALS), [], []
    for name, number in zip(names, numbers, strict=True):
        symbol = UNNAMED if name is None else written if name == mark else _escaped(name)
        if symbol != UNNAMED and tokenizer.lower and symbol.lower() not in taken:
            symbol = symbol.lower()
        if symbol in taken and name is not None:
            symbol = f"{symbol[:-1]}:{number}>" if symbol.endswith(">") else f"{symbol}:{number}"
        if name is not None and name != mark and symbol.lower() != name.lower():
            notes.append(f"the symbol {name!r} is called {symbol} here")
        taken.add(symbol)
        symbols.append(symbol)
    unnamed = names.count(None)
    if unnamed:
        notes.append(f"{unnamed} outputs have no name; they are {UNNAMED}")
    if tokenizer.is_phonemes:
        return symbols, "none", notes
    if mark is None or written != WORD_END:
        return symbols, GLUED, notes
    if between == "":
        notes.append("replace_word_delimiter_char is empty there; words are separated by spaces here")
    return symbols, "letter", notes


def _escaped(name: str) -> str:
    """Return a name without white space, and other than the word mark."""
    if name == WORD_END:
        return f"<U+{ord(WORD_END):04X}>"
    return "".join(f"<U+{ord(letter):04X}>" if letter.isspace() else letter for letter in name) or "<empty>"


def reorder(state: dict[str, Tensor], vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Put the rows of the output layer into our order; a symbol without a row is never written."""
    weight, bias = state["w2v_encoder.proj.weight"], state["w2v_encoder.proj.bias"]
    new_weight = weight.new_zeros(len(vocabulary.rows), weight.shape[1])
    new_bias = torch.full((len(vocabulary.rows),), UNWRITTEN, dtype=bias.dtype)
    for number, row in enumerate(vocabulary.rows):
        if row is not None:
            new_weight[number], new_bias[number] = weight[row], bias[row]
    return {**state, "w2v_encoder.proj.weight": new_weight, "w2v_encoder.proj.bias": new_bias}


def tokenizer_files(symbols: Sequence[str], post_process: str) -> dict[str, dict[str, Any]]:
    """Return the files of a tokenizer by name: the blank, our `<s>`, is their `<pad>`, and the other way round.

    Args:
        symbols: the dictionary; outputs without a name are left out.
        post_process: `none` makes a tokenizer of phones, which keeps symbols apart.
    """
    names = {"<s>": "<pad>", "<pad>": "<s>"}
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    numbered: dict[str, int] = {}
    for number, symbol in enumerate(symbols):
        numbered.setdefault(names.get(symbol, symbol), number)
    kind: dict[str, Any] = {
        "word_delimiter_token": WORD_END, "replace_word_delimiter_char": " ", "tokenizer_class": LETTERS,
    }  # fmt: skip
    if post_process == "none":
        kind = {
            "word_delimiter_token": None, "phone_delimiter_token": " ", "do_phonemize": False,
            "tokenizer_class": PHONEMES,
        }  # fmt: skip
    return {
        VOCABULARY: numbered,
        "special_tokens_map.json": tokens,
        TOKENIZER: {**tokens, "do_lower_case": False, **kind},
    }
