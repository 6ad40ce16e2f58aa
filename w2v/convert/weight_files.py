"""Files of weights in a Hugging Face folder: one, or the shards that an index names; safetensors, or torch's own."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from w2v.checkpoint.torch_file import read_torch_file
from w2v.convert.huggingface_symbols import read_json
from w2v.convert.safetensors_file import read_safetensors
from w2v.errors import CheckpointError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder under their names.

    Raises:
        CheckpointError: there are none, or a file of them is damaged.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if (folder / f"{name}.index.json").is_file():
            index = read_json(folder / f"{name}.index.json").get("weight_map")
            parts = set(index.values()) if isinstance(index, dict) else set()
            if not parts or any(not isinstance(part, str) or Path(part).name != part for part in parts):
                raise CheckpointError(f"{folder}/{name}.index.json: must name files of this folder")
            state: dict[str, Tensor] = {}
            for part in sorted(parts):
                state |= read_tensors(folder / part)
            return state
    raise CheckpointError(f"{folder}: holds neither {' nor '.join(WEIGHTS)}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file.

    Raises:
        CheckpointError: there is none, or it holds something else.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    state = read_torch_file(path, mapped=True)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path}: must hold tensors and nothing else")
    return state
