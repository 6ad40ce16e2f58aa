"""Names of tensors: the original's, and those of Hugging Face's Wav2Vec2 classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from w2v.convert.model_file import CTC, PRETRAINING
from w2v.errors import CheckpointError
from w2v.models.wav2vec_ctc import ENCODER_PREFIX

THEIR_PREFIXES = {"wav2vec2": "wav2vec2.", "hubert": "hubert.", "data2vec-audio": "data2vec_audio."}
"""By `model_type`: what stands before the names of the encoder in a model with a head."""

# (ours, theirs) inside the encoder; `{}` is the number of a layer.
ENCODER_NAMES = (
    ("mask_emb", "masked_spec_embed"),
    ("feature_extractor.conv_layers.{}.0.", "feature_extractor.conv_layers.{}.conv."),
    ("feature_extractor.conv_layers.{}.2.1.", "feature_extractor.conv_layers.{}.layer_norm."),
    ("feature_extractor.conv_layers.{}.2.", "feature_extractor.conv_layers.{}.layer_norm."),
    ("layer_norm.", "feature_projection.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection."),
    ("encoder.pos_conv.{}.0.", "encoder.pos_conv_embed.layers.{}.conv."),  # of data2vec: several, without weight norm
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.conv."),
    ("encoder.layer_norm.", "encoder.layer_norm."),
    ("encoder.layers.{}.self_attn.", "encoder.layers.{}.attention."),
    ("encoder.layers.{}.self_attn_layer_norm.", "encoder.layers.{}.layer_norm."),
    ("encoder.layers.{}.fc1.", "encoder.layers.{}.feed_forward.intermediate_dense."),
    ("encoder.layers.{}.fc2.", "encoder.layers.{}.feed_forward.output_dense."),
    ("encoder.layers.{}.final_layer_norm.", "encoder.layers.{}.final_layer_norm."),
    ("encoder.layers.{}.adapter_layer.", "encoder.layers.{}.adapter_layer."),  # of MMS
)
PRETRAINING_NAMES = (
    ("quantizer.vars", "quantizer.codevectors"),
    ("quantizer.weight_proj.", "quantizer.weight_proj."),
    ("project_q.", "project_q."),
    ("final_proj.", "project_hid."),
)
CTC_NAMES = (("w2v_encoder.proj.", "lm_head."),)
WEIGHT_NORM = (
    ("pos_conv_embed.conv.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    ("pos_conv_embed.conv.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
)


def to_their_names(
    state: Mapping[str, Tensor], kind: str, *, new_weight_norm: bool, family: str = "wav2vec2"
) -> dict[str, Tensor]:
    """Rename the tensors of a model for Hugging Face.

    Args:
        state: tensors under the original's names.
        kind: the model's name here.
        new_weight_norm: spell the weight norm as torch's parametrisation does.
        family: their `model_type`.

    Raises:
        CheckpointError: some have no counterpart there.
    """
    heads = {PRETRAINING: PRETRAINING_NAMES, CTC: CTC_NAMES}.get(kind, ())
    prefix = ENCODER_PREFIX if kind == CTC else ""
    their_prefix = THEIR_PREFIXES[family] if kind in (PRETRAINING, CTC) else ""
    renamed, unknown = {}, []
    for name, tensor in state.items():
        new = _rename(name, heads)
        if new is None and name.startswith(prefix):
            inner = _rename(name.removeprefix(prefix), ENCODER_NAMES)
            new = None if inner is None else their_prefix + inner
        if new is None:
            unknown.append(name)
            continue
        for old, spelling in WEIGHT_NORM if new_weight_norm else ():
            new = new.replace(old, spelling)
        renamed[new] = tensor
    if unknown:
        raise CheckpointError(f"--to huggingface: tensors that its models do not have: {', '.join(unknown[:5])}")
    return renamed


def to_our_names(state: Mapping[str, Tensor], kind: str, where: str, *, layer_norm: bool) -> dict[str, Tensor]:
    """Rename the tensors of a Hugging Face model.

    Args:
        state: tensors under their names.
        kind: the model's name here.
        where: the folder, for messages.
        layer_norm: whether the convolutions have layer norms (`feat_extract_norm: layer`).

    Raises:
        CheckpointError: some have no counterpart here.
    """
    heads = {PRETRAINING: PRETRAINING_NAMES, CTC: CTC_NAMES}.get(kind, ())
    skipped = ".2." if layer_norm else ".2.1."
    pairs = [(theirs, ours) for ours, theirs in ENCODER_NAMES if not ours.endswith(skipped)]
    prefix = ENCODER_PREFIX if kind == CTC else ""
    renamed, unknown = {}, []
    for name, tensor in state.items():
        spelled = name
        for old, spelling in WEIGHT_NORM:
            spelled = spelled.replace(spelling, old)
        new = _rename(spelled, [(theirs, ours) for ours, theirs in heads])
        if new is None:
            inner = _rename(without_prefix(spelled), pairs)
            new = None if inner is None else prefix + inner
        if new is None:
            unknown.append(name)
        else:
            renamed[new] = tensor
    if unknown:
        raise CheckpointError(f"{where}: holds tensors that are not known here: {', '.join(unknown[:5])}")
    return renamed


def without_prefix(name: str) -> str:
    """Return the name that a tensor of the encoder has in a model without a head."""
    for prefix in THEIR_PREFIXES.values():
        name = name.removeprefix(prefix)
    return name


def _rename(name: str, pairs: object) -> str | None:
    for old, new in pairs:  # type: ignore[attr-defined]
        pattern = re.escape(old).replace(r"\{\}", r"(\d+)")
        match = re.match(pattern, name)
        if match and (old.endswith(".") or match.end() == len(name)):
            return str(new).replace("{}", match[1] if match.groups() else "") + name[match.end() :]
    return None
