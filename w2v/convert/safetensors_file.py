"""`.safetensors` files: tensors with a line of JSON, read and written by the package of that name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from w2v.convert.masked_model_state import stored_symbols
from w2v.convert.model_file import ModelFile
from w2v.errors import CheckpointError
from w2v.files import atomic_path
from w2v.files.pointer import refuse_pointer

METADATA = "w2v"
"""Key of the file's metadata that holds the rest of the model as JSON."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file; tensors are windows on it.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    refuse_pointer(path, CheckpointError)
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as e:
        raise CheckpointError(f"{path}: cannot be read, it is damaged or no safetensors file ({str(e)[:120]})") from e


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors.torch import save_file

    try:
        with atomic_path(path) as part:
            part.touch()
            mode = part.stat().st_mode  # as the user's umask has it; save_file makes its own file, for the owner alone
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(part), dict(metadata))
            part.chmod(mode)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be written: {e.strerror or e}") from e


def read_safetensors_model(path: Path, dictionary: str | None) -> ModelFile:
    """Read a model that `w2v-convert --to safetensors` wrote.

    Raises:
        CheckpointError: the file is another one.
    """
    state, metadata = read_safetensors(path)
    if METADATA not in metadata:
        raise CheckpointError(f"{path}: holds tensors alone; give the Hugging Face folder with their config.json")
    try:
        content = json.loads(metadata[METADATA])
        config, symbols = content["config"], content.get("symbols")
        updates = int(content.get("num_updates", 0))
        score = str(content.get("score", ""))
        is_whole = isinstance(config["model"]["_name"], str) and isinstance(config["task"]["_name"], str)
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise CheckpointError(f"{path}: its metadata do not describe a model of w2v") from e
    if not is_whole or not (symbols is None or isinstance(symbols, list)):
        raise CheckpointError(f"{path}: its metadata do not describe a model of w2v")
    symbols, source = stored_symbols(path, config["model"], state, symbols, dictionary)
    return ModelFile(str(path), "w2v, safetensors", config, state, symbols, source, updates, score=score)


def write_safetensors_model(path: Path, file: ModelFile) -> None:
    """Write a model as one `.safetensors` file that holds all of it."""
    rest: dict[str, Any] = {"config": file.config, "symbols": file.symbols, "num_updates": file.num_updates}
    rest["score"] = file.score
    write_safetensors(path, file.state, {"format": "pt", METADATA: json.dumps(rest)})
