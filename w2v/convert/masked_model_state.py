"""Tensors and symbols of masked language models: of the original's three generations, brought to the names of today."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.convert.model_file import MASKED_MODEL
from w2v.convert.symbols import find_symbols
from w2v.data.dictionary import MASK
from w2v.errors import CheckpointError

ENCODER = "encoder.sentence_encoder."
TOKENS = f"{ENCODER}embed_tokens.weight"
POSITIONS = f"{ENCODER}embed_positions.weight"
OUTPUT = "encoder.lm_head.weight"
FINAL_NORM = f"{ENCODER}layer_norm.weight"
NOT_READ = re.compile(
    rf"{re.escape(ENCODER)}version|.*\.(_float_tensor|pooler\..*)"
    r"|(encoder\.)?classification_heads\..*|encoder\.(regression_head.*|_ema.*)"
)
"""Versions, heads of classifiers and of data2vec."""


def upgrade_masked_model(path: Path, state: Mapping[str, Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that a `roberta` of today has; a shared output matrix is kept once.

    Args:
        path: the file, for messages.
        state: tensors by name, of any generation.
        options: those of the model; what the tensors themselves say is set in them.

    Raises:
        CheckpointError: there are no embeddings, or two tensors that should be shared differ.
    """
    today: dict[str, Tensor] = {}
    for old, tensor in state.items():
        name = re.sub(r"^decoder\b", "encoder", old).replace(".layernorm_embedding.", ".emb_layer_norm.")
        if NOT_READ.fullmatch(name):
            continue
        stem, _, leaf = name.rpartition(".")
        if leaf in ("in_proj_weight", "in_proj_bias"):  # the three projections of 2019 in one
            kind = leaf.removeprefix("in_proj_")
            parts = zip("qkv", tensor.chunk(3), strict=True)
            today |= {f"{stem}.{which}_proj.{kind}": part for which, part in parts}
        else:
            today[name] = tensor
    for name in (TOKENS, POSITIONS):
        if name not in today or today[name].dim() != 2:
            raise CheckpointError(f"{path}: lacks the tensor {name}")
    # Positions are counted from the number after <pad>.
    options["max_positions"] = len(today[POSITIONS]) - 2
    # The original of 2020 ignored the flag, so its files may say one thing and hold another.
    options["encoder_normalize_before"] = FINAL_NORM in today
    if options.get("untie_weights_roberta"):
        return today
    output = today.pop(OUTPUT, today[TOKENS])
    if output.shape != today[TOKENS].shape or not torch.equal(output, today[TOKENS]):
        raise CheckpointError(f"{path}: {OUTPUT} and {TOKENS} should be one tensor, and differ")
    return today


def to_fairseq_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as the original names them since February 2021; a shared output matrix stands there twice."""
    theirs = {f"{ENCODER}version": torch.tensor([3.0])}
    theirs |= {name.replace(".emb_layer_norm.", ".layernorm_embedding."): tensor for name, tensor in state.items()}
    theirs.setdefault(OUTPUT, state[TOKENS])
    return theirs


def token_symbols(
    path: Path, state: Mapping[str, Tensor], *, given: str | None, inside: Sequence[str] | None, data: str | None = None
) -> tuple[list[str], str]:
    """Return the tokens of a model, `<mask>` the last one, and where they were found.

    Args:
        path: the checkpoint.
        state: its tensors.
        given: dictionary file that the user named; it wins.
        inside: tokens that the checkpoint holds.
        data: folder of the data, in which `dict.txt` is looked for first.

    Raises:
        CheckpointError: no dictionary has one symbol less, `<mask>`, than the model has embeddings.
    """
    if TOKENS not in state or state[TOKENS].dim() != 2:
        raise CheckpointError(f"{path}: lacks the tensor {TOKENS}")
    rows = len(state[TOKENS])
    if given is None and inside is not None and len(inside) == rows:
        return list(inside), "the checkpoint"
    symbols, source = find_symbols(path, rows - 1, given=given, inside=None, labels=None, data=data)
    return [*symbols, MASK], source


def stored_symbols(
    path: Path,
    model: Mapping[str, Any],
    state: Mapping[str, Tensor],
    inside: list[str] | None,
    given: str | None,
) -> tuple[list[str] | None, str]:
    """Return the symbols of a model whose own file holds them, or those of a dictionary that takes their place.

    Args:
        path: the file.
        model: options of the model, with its name.
        state: its tensors.
        inside: symbols in the file; None: the model has none.
        given: dictionary file that the user named.

    Raises:
        CheckpointError: the dictionary does not fit.
    """
    if given is None or inside is None:
        return inside, "the checkpoint" if inside else ""
    if str(model.get("_name")).startswith(MASKED_MODEL):
        return token_symbols(path, state, given=given, inside=None)  # `<mask>` stands in no dictionary
    return find_symbols(path, len(inside), given=given, inside=None)
