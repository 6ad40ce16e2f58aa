"""Models of many languages (MMS, Pratap et al. 2023): which language of a Hugging Face folder is read.

All languages share the blocks. What belongs to one of them lies beside the model in `adapter.LANGUAGE.safetensors` or
`.bin`: a small adapter after each block, and the output layer. `vocab.json` holds one vocabulary per language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor

from w2v.convert.huggingface_names import without_prefix
from w2v.convert.huggingface_symbols import VOCABULARY, find_vocabulary, languages_of, target_language
from w2v.convert.weight_files import read_tensors
from w2v.errors import CheckpointError

ADAPTER_FILES = ("adapter.{}.safetensors", "adapter.{}.bin")
WIDTH = "adapter_attn_dim"
"""The key of `config.json` that says how wide adapters are; without it there are none."""
ADAPTER_NAME = ".adapter_layer."
HEAD = "lm_head."
MOST_LISTED = 40
_LANGUAGE = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Spoken:
    """A model of one language.

    Attributes:
        state: its tensors under their names.
        language: the code; None: the model has one language only.
        note: what was chosen, in words; empty where there is nothing to choose.
    """

    state: Mapping[str, Tensor]
    language: str | None = None
    note: str = ""


def adapter_files(language: str) -> list[str]:
    """Return the names that the file of a language may have, the preferred one first.

    Raises:
        CheckpointError: the text cannot be a language.
    """
    if not _LANGUAGE.fullmatch(language):
        raise CheckpointError(f"--language must be a code such as eng or azj-script_latin, got {language[:40]!r}")
    return [name.format(language) for name in ADAPTER_FILES]


def choose_language(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], language: str | None
) -> Spoken:
    """Return the tensors of one language.

    Args:
        folder: of the model.
        config: the content of `config.json`.
        state: its tensors under their names; those of its own language are replaced.
        language: the code (`--language`); None: what the tokenizer names, whose tensors the model file holds.

    Raises:
        CheckpointError: the model has no such language, or its file does not fit.
    """
    has_adapters = config.get(WIDTH) is not None
    vocabulary = find_vocabulary(folder)
    named = languages_of(vocabulary) if vocabulary else []
    own = target_language(vocabulary.parent) if vocabulary else None
    present = {path.name.split(".")[1] for path in folder.glob("adapter.*.*")} if has_adapters else set()
    if not present and not named:
        if language is not None:
            raise one_language(language, folder)
        return Spoken(state)
    # Of a hub only the adapter that is asked for comes here: there its vocabulary tells what there is.
    known = sorted(present | {own} if own and len(present) > 1 else named or present)
    if language is None:
        others = f" of {len(known)}; --language takes another one" if len(known) > 1 else ""
        return Spoken(state, own, f"its language is {own}{others}" if own else "")
    found = next((folder / name for name in adapter_files(language) if (folder / name).is_file()), None)
    if has_adapters and found is not None:
        return Spoken(_replaced(state, found), language, f"its language is {language}, from {found.name}")
    if language == own or (not has_adapters and language in named):
        return Spoken(state, language, f"its language is {language}")
    raise CheckpointError(_unknown(folder, language, known))


def one_language(language: str, place: Path) -> CheckpointError:
    """Return what is raised where `--language` is given for a model that has nothing to choose."""
    return CheckpointError(f"--language {language}: {place} has one language only; leave --language out")


def _unknown(folder: Path, language: str, known: list[str]) -> str:
    if len(known) <= MOST_LISTED:
        return f"--language {language}: {folder} has no such language; it has {', '.join(known) or 'none'}"
    near = get_close_matches(language, known, n=8, cutoff=0.5) or known[:8]
    return (
        f"--language {language}: {folder} has no such language; it has {len(known)}, among them {', '.join(near)} "
        f"(all of them: the keys of its {VOCABULARY})"
    )


def _replaced(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a state with the adapters and the output layer of a file in place of its own."""
    adapter = {without_prefix(name): tensor for name, tensor in read_tensors(path).items()}
    names = {without_prefix(name): name for name in state}
    wanted = {name for name in names if ADAPTER_NAME in name or name.startswith(HEAD)}
    if not any(name.startswith(HEAD) for name in wanted):  # an encoder alone
        adapter = {name: tensor for name, tensor in adapter.items() if not name.startswith(HEAD)}
    if wanted != adapter.keys():
        odd = sorted(wanted ^ adapter.keys())
        raise CheckpointError(f"{path}: does not fit the model: {odd[0]} is in one of them only")
    return {**state, **{names[name]: tensor for name, tensor in adapter.items()}}
