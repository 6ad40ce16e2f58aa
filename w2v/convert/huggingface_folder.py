"""Folders of Hugging Face's Wav2Vec2 classes, both ways.

`config.json`, `model.safetensors` or `pytorch_model.bin` (or their shards), `preprocessor_config.json` and, for CTC,
the files of the tokenizer. transformers itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.convert.hubert_model import EXTRA_FILE, HEADS
from w2v.convert.huggingface_config import (
    CLASSES,
    FAMILIES,
    from_their_config,
    kind_of,
    progress_before,
    sections_before,
    to_their_config,
)
from w2v.convert.huggingface_names import THEIR_PREFIXES, to_our_names, to_their_names
from w2v.convert.huggingface_symbols import find_vocabulary, read_json, read_vocabulary, reorder, tokenizer_files
from w2v.convert.language_adapters import choose_language
from w2v.convert.model_file import CTC, ENCODER, HUBERT, ModelFile
from w2v.convert.other_folders import CONFIG_FILE, refuse_quantised
from w2v.convert.safetensors_file import read_safetensors, write_safetensors
from w2v.convert.symbols import find_symbols
from w2v.convert.weight_files import WEIGHTS, read_weights
from w2v.data.post_process import fitting_post_process
from w2v.errors import CheckpointError
from w2v.models.wav2vec_ctc import ENCODER_PREFIX

AUDIO_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
"""Where transformers 5 keeps the settings of AUDIO_FILE, under the key `feature_extractor`."""
EXTRACTOR = "Wav2Vec2FeatureExtractor"
THEIR_EPSILON = 1e-7
"""What Wav2Vec2FeatureExtractor adds to the variance of a clip."""


# ------------------------------------------------------------------------------------------ reading


def read_huggingface(folder: Path, dictionary: str | None, language: str | None = None) -> ModelFile:
    """Read a folder of `Wav2Vec2ForPreTraining`, `Wav2Vec2ForCTC` or `Wav2Vec2Model`; of a classifier, its encoder.

    Args:
        folder: the folder.
        dictionary: dictionary file of a CTC model (`--dict`).
        language: of a model with adapters per language (`--language`); None: the one that its tokenizer names.

    Raises:
        CheckpointError: it holds another model, or is incomplete.
    """
    config = read_json(folder / CONFIG_FILE)
    weights = read_weights(folder)
    refuse_quantised(folder, config, weights)
    spoken = choose_language(folder, config, weights, language)
    their_state = spoken.state
    kind, name = _kind(config, their_state, folder)
    extra: dict[str, Tensor] = {}
    if name == "HubertModel" and (folder / EXTRA_FILE).is_file():
        kind, extra = HUBERT, read_safetensors(folder / EXTRA_FILE)[0]
    sections = from_their_config(config, kind, str(folder))
    encoder = sections["model"]["w2v_args"] if kind == CTC else sections["model"]
    is_layer_norm = encoder["extractor_mode"] == "layer_norm"
    notes = [spoken.note] if spoken.note else []
    if name not in CLASSES:
        their_state = {
            key: tensor for key, tensor in their_state.items() if key.startswith(tuple(THEIR_PREFIXES.values()))
        }
        notes.append(f"the encoder of {name}, without its head")
    state = {**to_our_names(their_state, kind, str(folder), layer_norm=is_layer_norm), **extra}
    _fit_encoder(state, ENCODER_PREFIX if kind == CTC else "", encoder, folder, notes)
    before = sections_before(config, str(folder))
    task = {"_name": "audio_pretraining", "data": ".", **before.get("task", {})}
    task |= _audio(folder, is_layer_norm, notes)
    symbols, source = None, ""
    if kind == CTC:
        task.setdefault("labels", "ltr")
        found = _symbols(folder, config, state, dictionary, spoken.language, notes)
        state, symbols, source = found.state, found.symbols, found.source
        if found.post_process is not None:
            sections["criterion"].setdefault("post_process", found.post_process)
    kind_text = f"Hugging Face, {name}"
    updates, score = progress_before(before)
    return ModelFile(
        str(folder), kind_text, {"task": task, **sections}, state, symbols, source, updates, notes, score,
        language=spoken.note,
    )  # fmt: skip


def _kind(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> tuple[str, str]:
    """Return our name of the model, and theirs."""
    names = config.get("architectures")
    if not names:  # an old file: the heads tell
        name = "Wav2Vec2ForCTC" if "lm_head.weight" in state else "Wav2Vec2Model"
        name = "Wav2Vec2ForPreTraining" if "project_hid.weight" in state else name
        return CLASSES[name], name
    name = names[0] if isinstance(names, list) and names else names
    name = str(name)[:60]
    if name in CLASSES:
        return CLASSES[name], name
    # A class with another head (a classifier, or one of the uploader): `Wav2Vec2Model.from_pretrained` takes its
    # encoder, too.
    prefix = THEIR_PREFIXES.get(str(config.get("model_type")))
    if prefix is not None and any(key.startswith(prefix) for key in state):
        return ENCODER, name
    raise CheckpointError(
        f"{folder}: holds a {name}; what opens here are models of {', '.join(FAMILIES.values())}: those that write "
        "by CTC, those of pretraining, and the encoders of others"
    )


def _fit_encoder(
    state: dict[str, Tensor], prefix: str, encoder: Mapping[str, Any], folder: Path, notes: list[str]
) -> None:
    """Put right, in place, the two parts that the classes do not have in common."""
    width = encoder["encoder_embed_dim"]
    if f"{prefix}mask_emb" not in state:  # they leave it out where neither mask is on
        state[f"{prefix}mask_emb"] = torch.zeros(width)
        notes.append("it has no mask embedding (masks were off): zeros are put there")
    weight, bias = (state.get(f"{prefix}post_extract_proj.{part}") for part in ("weight", "bias"))
    if encoder["conv_feature_layers"][-1][0] == width and weight is not None and bias is not None:
        # The original has no projection between equal widths; theirs then has to do nothing.
        if weight.shape != (width, width) or not torch.equal(weight, torch.eye(width).to(weight)) or bias.any():
            raise CheckpointError(f"{folder}: projects features to the same width, which the original cannot do")
        del state[f"{prefix}post_extract_proj.weight"], state[f"{prefix}post_extract_proj.bias"]


def _audio(folder: Path, is_layer_norm: bool, notes: list[str]) -> dict[str, Any]:
    """Return how input is read: from the settings of the folder, or of the one above; guessed where there are none."""
    for place in (folder, folder.parent):
        content = _audio_settings(place)
        if content is None:
            continue
        kind = content.get("feature_extractor_type") or EXTRACTOR
        if kind != EXTRACTOR:
            raise CheckpointError(f"{place}: its input is made by a {str(kind)[:60]}; only {EXTRACTOR} is known here")
        return {
            "normalize": bool(content.get("do_normalize", True)),
            "sample_rate": content.get("sampling_rate", 16000),
            "normalize_epsilon": THEIR_EPSILON,
        }
    notes.append(
        f"there is no {AUDIO_FILE}: 16000 Hz {'with' if is_layer_norm else 'without'} normalisation is assumed, "
        f"as in published models with {'layer' if is_layer_norm else 'group'} norm"
    )
    return {"normalize": is_layer_norm, "sample_rate": 16000, "normalize_epsilon": THEIR_EPSILON}


def _audio_settings(folder: Path) -> dict[str, Any] | None:
    # In transformers' order: where both files are there, the newer one wins.
    if (folder / PROCESSOR_FILE).is_file():
        content = read_json(folder / PROCESSOR_FILE).get("feature_extractor")
        if isinstance(content, dict):
            return content
    return read_json(folder / AUDIO_FILE) if (folder / AUDIO_FILE).is_file() else None


@dataclass(frozen=True)
class _Symbols:
    """Labels, where they are from, and the state dict with the output layer in their order."""

    state: dict[str, Tensor]
    symbols: list[str]
    source: str
    post_process: str | None = None


def _symbols(
    folder: Path, config: Mapping[str, Any], state: dict[str, Tensor], dictionary: str | None, language: str | None,
    notes: list[str],
) -> _Symbols:  # fmt: skip
    weight = state.get("w2v_encoder.proj.weight")
    if weight is None or "w2v_encoder.proj.bias" not in state:
        raise CheckpointError(f"{folder}: lacks the tensor lm_head.weight or lm_head.bias")
    path = Path(dictionary) if dictionary and dictionary.endswith(".json") else None
    if path is None and not dictionary:
        path = find_vocabulary(folder)
    if path is None:
        blank = config.get("pad_token_id")
        is_ours = type(blank) is not int or blank == 0
        symbols, source = find_symbols(
            folder / CONFIG_FILE, len(weight), given=dictionary, inside=None, with_standard=is_ours
        )
        return _Symbols(state, symbols, source)
    vocabulary = read_vocabulary(path, config, len(weight), language)
    notes += vocabulary.notes
    if not vocabulary.is_in_order:
        notes.append("the rows of the output layer were put into the order of w2v: the blank first, then the specials")
        state = reorder(state, vocabulary)
    return _Symbols(state, vocabulary.symbols, str(path), vocabulary.post_process)


# ------------------------------------------------------------------------------------------ writing


def write_huggingface(
    folder: Path, file: ModelFile, *, new_weight_norm: bool = False, as_bin: bool = False
) -> list[str]:
    """Write a folder that transformers reads, and return the names of its files.

    Args:
        folder: made if need be; files of the same names are replaced.
        file: a wav2vec 2.0 model.
        new_weight_norm: spell the weight norm as torch's parametrisation does; transformers reads both.
        as_bin: write `pytorch_model.bin` instead of `model.safetensors`.

    Raises:
        CheckpointError: the model has no counterpart there, or the folder cannot be written.
    """
    config, kind = to_their_config(file), kind_of(file)
    config["w2v"]["trainer"] = {"num_updates": file.num_updates, "score": file.score}
    state = _with_projection(file, kind, config)
    extra = {name: tensor for name, tensor in state.items() if kind == HUBERT and name.startswith(HEADS)}
    state = {name: tensor for name, tensor in state.items() if name not in extra}
    state = to_their_names(state, kind, new_weight_norm=new_weight_norm, family=config["model_type"])
    dtypes = {tensor.dtype for tensor in state.values()}
    config["torch_dtype"] = "float32" if len(dtypes) != 1 else str(dtypes.pop()).removeprefix("torch.")
    files: dict[str, Any] = {
        AUDIO_FILE: {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": file.sample_rate,
            "padding_value": 0.0,
            "padding_side": "right",
            "do_normalize": file.normalize,
            # Group norms count padding there whatever the mask says, and were trained without one.
            "return_attention_mask": config["feat_extract_norm"] == "layer",
        }
    }
    if kind == CTC:
        if file.symbols is None:
            raise CheckpointError(f"{file.path}: has no dictionary; name one with --dict")
        symbol = str(file.config.get("criterion", {}).get("post_process", "letter") or "none")
        files |= tokenizer_files(file.symbols, fitting_post_process(symbol, file.symbols))
    # The vectors of HuBERT's classes go into a file of their own: their classes have no place for them.
    return write_parts(folder, state, {**files, CONFIG_FILE: config}, as_bin=as_bin, extra=extra)


def write_parts(
    folder: Path,
    state: dict[str, Tensor],
    files: Mapping[str, Any],
    *,
    as_bin: bool,
    extra: dict[str, Tensor] | None = None,
) -> list[str]:
    """Write the weights and the JSON files of a folder, and return the names of all files.

    Args:
        folder: made if need be.
        state: tensors under their names.
        files: what each JSON file holds.
        as_bin: write `pytorch_model.bin` instead of `model.safetensors`.
        extra: tensors for `w2v_extra.safetensors`.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    weights = WEIGHTS[1] if as_bin else WEIGHTS[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if as_bin:
            torch.save(state, folder / weights)
        else:
            write_safetensors(folder / weights, state, {"format": "pt"})
        if extra:
            write_safetensors(folder / EXTRA_FILE, extra, {"format": "pt"})
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
    except (OSError, RuntimeError) as e:
        raise CheckpointError(f"{folder}: cannot be written: {getattr(e, 'strerror', None) or e}") from e
    return [*files, weights, *([EXTRA_FILE] if extra else [])]


def _with_projection(file: ModelFile, kind: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Add the projection that their classes always have; between equal widths it does nothing."""
    state = dict(file.state)
    prefix, width = ENCODER_PREFIX if kind == CTC else "", config["hidden_size"]
    if config["conv_dim"][-1] == width and f"{prefix}post_extract_proj.weight" not in state:
        state[f"{prefix}post_extract_proj.weight"] = torch.eye(width)
        state[f"{prefix}post_extract_proj.bias"] = torch.zeros(width)
    return state
