"""Tensors of the original's language models, brought to the names of today; shared ones are kept once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.errors import CheckpointError

# Buffers without meaning for a trained model: versions, devices, tables of sinusoids.
BUFFERS = re.compile(r"(.*\.)?(version|_float_tensor|embed_positions\.weights)")
OLD_NORMS = {"0": "self_attn_layer_norm", "1": "final_layer_norm", "2": "final_layer_norm"}
WORDS = "decoder.embed_tokens.weight"
OUTPUT = "decoder.output_projection.weight"


def upgrade_language_model(path: Path, state: Mapping[str, Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that a `transformer_lm` of today has.

    Args:
        path: the file, for messages.
        state: tensors by name.
        options: those of the model; whether there is a last norm is set by what is in the file.

    Raises:
        CheckpointError: two tensors that should be shared differ, or the adaptive softmax is of a version before 2018.
    """
    is_adaptive = any(name.startswith("decoder.adaptive_softmax.") for name in state)
    if is_adaptive and "decoder.adaptive_softmax.version" not in state:
        raise CheckpointError(f"{path}: its adaptive softmax is of the first version, which is not read")
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if BUFFERS.fullmatch(name):
            continue
        renamed.update(_today(name, tensor))
    # Models of 2018 have none, whatever their options say.
    options["no_decoder_final_norm"] = "decoder.layer_norm.weight" not in renamed
    twins = _shared(renamed, options)
    for name, owner in twins.items():
        _check_equal(path, renamed, name, owner)
    return {name: tensor for name, tensor in renamed.items() if name not in twins}


def num_words(path: Path, state: Mapping[str, Tensor]) -> int:
    """Return the size of the vocabulary.

    Raises:
        CheckpointError: there are no embeddings.
    """
    bands = [name for name in state if re.fullmatch(r"decoder\.embed_tokens\.embeddings\.\d+\.0\.weight", name)]
    names = [WORDS] if WORDS in state else bands
    if not names:
        raise CheckpointError(f"{path}: lacks the tensor {WORDS}")
    return sum(len(state[name]) for name in names)


def _today(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return one tensor of an old file under the names of today."""
    stem, _, leaf = name.rpartition(".")
    if leaf in ("in_proj_weight", "in_proj_bias"):
        kind = leaf.removeprefix("in_proj_")
        parts = tensor.chunk(3)
        return {f"{stem}.{which}_proj.{kind}": part for which, part in zip("qkv", parts, strict=True)}
    if name == "decoder.embed_out":
        return {OUTPUT: tensor}
    name = re.sub(r"\.layer_norms\.([012])\.", lambda match: f".{OLD_NORMS[match[1]]}.", name)
    return {name: tensor}


def _shared(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of tensors that are others under a second name, with the first one."""
    twins = {}
    if options.get("share_decoder_input_output_embed"):
        twins[OUTPUT] = WORDS
    if options.get("tie_adaptive_weights"):
        band = "decoder.embed_tokens.embeddings.{}.{}.weight".format
        head = "decoder.adaptive_softmax.head.word_proj"
        twins |= {f"{head}.weight": band(0, 0), f"{head}.1.weight": band(0, 0)}
        for number in range(len(state)):
            tail = f"decoder.adaptive_softmax.tail.{number}"
            if f"{tail}.2.weight" not in state and f"{tail}.0.weight" not in state:
                break
            twins[f"{tail}.2.weight"] = band(number + 1, 0)
            if options.get("tie_adaptive_proj"):
                twins[f"{tail}.0.weight"] = band(number + 1, 1)
    return {name: owner for name, owner in twins.items() if name in state}


def _check_equal(path: Path, state: Mapping[str, Tensor], name: str, owner: str) -> None:
    ours, other = state[name], state.get(owner)
    if other is None:
        raise CheckpointError(f"{path}: lacks the tensor {owner}")
    if ours.data_ptr() == other.data_ptr() and ours.shape == other.shape:
        return
    if ours.shape != other.shape or not torch.equal(ours, other):
        raise CheckpointError(f"{path}: {name} and {owner} should be one tensor, and differ")
