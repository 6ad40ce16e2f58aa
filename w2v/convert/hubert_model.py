"""What is particular to checkpoints of HuBERT: label sets, vectors of classes, heads that Hugging Face has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from w2v.checkpoint.unpickle import Record
from w2v.data.dictionary import SPECIALS
from w2v.errors import CheckpointError

VECTORS = "label_embs_concat"
OLD_VECTORS = "label_embs"
"""Their name in the oldest files (update_ckpt.py of the original)."""
HEADS = (VECTORS, "final_proj.", "target_glu.")
EXTRA_FILE = "w2v_extra.safetensors"
"""Beside a Hugging Face model: the heads."""
QUANTIZER_OPTIONS = {
    "quantize_input", "same_quantizer", "quantize_targets", "latent_vars", "latent_groups", "latent_dim", "latent_temp",
}  # fmt: skip
"""Options of our encoder that the original's HuBERT has not."""


def complete_hubert(
    path: Path, content: Mapping[str, Any], state: Mapping[str, Tensor], model: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the tensors of the original's HuBERT under today's names; `model` takes the classes of its label sets.

    Raises:
        CheckpointError: the dictionaries in the file do not fit its tensors.
    """
    state = {VECTORS if name == OLD_VECTORS else name: tensor for name, tensor in state.items()}
    if VECTORS not in state:
        raise CheckpointError(f"{path}: lacks the tensor {VECTORS}")
    rows = len(state[VECTORS])
    task = content.get("task_state")
    dictionaries = task.get("dictionaries") if isinstance(task, dict) else None
    sizes = [len(symbols) for symbols in map(_symbols, dictionaries or ()) if symbols]
    if sizes and sum(sizes) != rows:
        raise CheckpointError(f"{path}: its dictionaries have {sum(sizes)} symbols, its {VECTORS} {rows} rows")
    model["num_classes"] = sizes or [rows]
    return state


def class_symbols(num_classes: Sequence[int]) -> list[list[str]]:
    """Return the dictionaries that `w2v-kmeans` writes for label sets of these sizes: specials, then 0, 1, 2, ..."""
    return [[*SPECIALS, *map(str, range(size - len(SPECIALS)))] for size in num_classes]


def _symbols(dictionary: Any) -> list[Any]:
    symbols = dictionary.fields.get("symbols") if isinstance(dictionary, Record) else None
    return symbols if isinstance(symbols, list) else []
