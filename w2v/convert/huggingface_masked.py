"""Folders of Hugging Face's `RobertaForMaskedLM`, both ways.

`config.json`, the weights, and a `tokenizer.json` that splits at spaces and knows every token whole. transformers
itself is not needed. What their configuration has no word for (masks, break modes) travels under its key `w2v`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.config import build_config, to_plain
from w2v.convert.huggingface_config import progress_before, sections_before
from w2v.convert.huggingface_folder import write_parts
from w2v.convert.huggingface_symbols import read_json
from w2v.convert.masked_model_state import ENCODER, OUTPUT, POSITIONS, TOKENS, token_symbols
from w2v.convert.model_file import MASKED_MODEL, ModelFile
from w2v.convert.other_folders import CONFIG_FILE
from w2v.convert.weight_files import read_weights
from w2v.data.dictionary import MASK, SPECIALS
from w2v.errors import CheckpointError
from w2v.models import MODELS

CLASS = "RobertaForMaskedLM"
TOKENIZER_FILE = "tokenizer.json"
EMBEDDINGS = "roberta.embeddings."
SEGMENTS = f"{EMBEDDINGS}token_type_embeddings.weight"
THEIR_OUTPUT = "lm_head.decoder.weight"
THEIR_COPY = "lm_head.decoder.bias"
"""The same tensor as `lm_head.bias`."""
NOT_READ = (f"{EMBEDDINGS}position_ids", "roberta.pooler.")

# (ours, theirs); `{}` is the number of a layer.
NAMES = (
    (f"{ENCODER}embed_tokens.", f"{EMBEDDINGS}word_embeddings."),
    (f"{ENCODER}embed_positions.", f"{EMBEDDINGS}position_embeddings."),
    (f"{ENCODER}emb_layer_norm.", f"{EMBEDDINGS}LayerNorm."),
    ("encoder.lm_head.dense.", "lm_head.dense."),
    ("encoder.lm_head.layer_norm.", "lm_head.layer_norm."),
    ("encoder.lm_head.bias", "lm_head.bias"),
    (OUTPUT, THEIR_OUTPUT),
)
LAYER_NAMES = (
    ("self_attn.q_proj.", "attention.self.query."),
    ("self_attn.k_proj.", "attention.self.key."),
    ("self_attn.v_proj.", "attention.self.value."),
    ("self_attn.out_proj.", "attention.output.dense."),
    ("self_attn_layer_norm.", "attention.output.LayerNorm."),
    ("fc1.", "intermediate.dense."),
    ("fc2.", "output.dense."),
    ("final_layer_norm.", "output.LayerNorm."),
)
OUR_LAYER, THEIR_LAYER = f"{ENCODER}layers.", "roberta.encoder.layer."
# (ours, theirs): options that mean the same.
OPTIONS = (
    ("encoder_layers", "num_hidden_layers"),
    ("encoder_embed_dim", "hidden_size"),
    ("encoder_ffn_embed_dim", "intermediate_size"),
    ("encoder_attention_heads", "num_attention_heads"),
    ("dropout", "hidden_dropout_prob"),
    ("attention_dropout", "attention_probs_dropout_prob"),
)
# Settings of which only one value is computed here; the second one is their class's default.
ONLY: dict[str, tuple[Any, Any]] = {
    "layer_norm_eps": (1e-5, 1e-12), "hidden_act": ("gelu", "gelu"), "pad_token_id": (1, 1), "bos_token_id": (0, 0),
    "eos_token_id": (2, 2), "position_embedding_type": ("absolute", "absolute"), "is_decoder": (False, False),
    "add_cross_attention": (False, False),
}  # fmt: skip
THEIR_SIZES = {
    "num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip


def is_masked_folder(folder: Path) -> bool:
    """Tell whether a folder's configuration is that of a masked language model."""
    path = folder / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    return config.get("architectures") in ([CLASS], CLASS) or config.get("model_type") == "roberta"


# ------------------------------------------------------------------------------------------ reading


def read_masked_folder(folder: Path, dictionary: str | None) -> ModelFile:
    """Read a folder of `RobertaForMaskedLM`.

    Raises:
        CheckpointError: it is a variant that is not known here, or is incomplete.
    """
    config = read_json(folder / CONFIG_FILE)
    for name, (wanted, default) in ONLY.items():
        if config.get(name, default) != wanted:
            found = str(config.get(name, default))[:40]
            raise CheckpointError(f"{folder}: has {name} = {found!r}; only {wanted!r} is known here")
    sections = _sections(config, folder)
    notes: list[str] = []
    state = _our_state(read_weights(folder), sections["model"], folder, notes)
    symbols, source = _symbols(folder, state, dictionary)
    updates, score = progress_before(sections)
    sections.pop("trainer", None)
    kind = f"Hugging Face, {CLASS}"
    return ModelFile(str(folder), kind, sections, state, symbols, source, updates, notes, score)


def _sections(config: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    before = sections_before(config, str(folder))
    get = {**THEIR_SIZES, **config}
    model = {**before.get("model", {}), **{ours: get[theirs] for ours, theirs in OPTIONS}}
    model |= {"_name": MASKED_MODEL, "untie_weights_roberta": not config.get("tie_word_embeddings", True)}
    task = {"data": ".", "sample_break_mode": "eos", **before.get("task", {}), "_name": "masked_lm"}
    return {**before, "task": task, "model": model, "criterion": {"_name": "masked_lm"}}


def _our_state(
    theirs: Mapping[str, Tensor], model: dict[str, Any], folder: Path, notes: list[str]
) -> dict[str, Tensor]:
    """Return tensors under our names; `model` takes what the tensors say."""
    state: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in theirs.items():
        if name.startswith(NOT_READ) or name in (SEGMENTS, THEIR_COPY):
            continue
        ours = _renamed(name, THEIR_LAYER, OUR_LAYER, [(b, a) for a, b in NAMES], [(b, a) for a, b in LAYER_NAMES])
        if ours is None:
            unknown.append(name)
        else:
            state[ours] = tensor
    if unknown:
        raise CheckpointError(f"{folder}: holds tensors that are not known here: {', '.join(unknown[:5])}")
    for name in (TOKENS, POSITIONS, "encoder.lm_head.bias"):
        if name not in state:
            raise CheckpointError(f"{folder}: lacks the tensor for {name}; is it a {CLASS}?")
    model["max_positions"] = len(state[POSITIONS]) - 2
    words, output = state[TOKENS], state.get(OUTPUT)
    is_tied = not model["untie_weights_roberta"]
    if is_tied and output is not None and not (output.shape == words.shape and torch.equal(output, words)):
        notes.append(f"{THEIR_OUTPUT} differs from the embeddings: the head has a matrix of its own")
        model["untie_weights_roberta"], is_tied = True, False
    segment = theirs.get(SEGMENTS)
    if segment is not None and segment[0].any():
        # Every token is of segment 0, so its vector may as well be part of every token's.
        notes.append("the vector of segment 0 is not zero: it was added to those of the tokens")
        if is_tied:
            state[OUTPUT] = words.clone()
            model["untie_weights_roberta"] = True
        moved = words + segment[0]
        moved[1] = words[1]
        state[TOKENS] = moved
    if model["untie_weights_roberta"]:
        state.setdefault(OUTPUT, words)
    else:
        state.pop(OUTPUT, None)
    return state


def _symbols(folder: Path, state: Mapping[str, Tensor], dictionary: str | None) -> tuple[list[str], str]:
    path = folder / TOKENIZER_FILE
    if dictionary is not None or not path.is_file():
        return token_symbols(folder / CONFIG_FILE, state, given=dictionary, inside=None)
    tokenizer = read_json(path).get("model")
    vocabulary = tokenizer.get("vocab") if isinstance(tokenizer, dict) else None
    if not isinstance(tokenizer, dict) or tokenizer.get("type") != "WordLevel" or not isinstance(vocabulary, dict):
        raise CheckpointError(f"{path}: must know tokens whole (WordLevel); other tokenizers are for text")
    rows = len(state[TOKENS])
    symbols = sorted(vocabulary, key=lambda symbol: int(vocabulary[symbol]))
    if sorted(vocabulary.values()) != list(range(rows)):
        raise CheckpointError(f"{path}: must number its tokens from 0 to {rows - 1}, got {len(vocabulary)} tokens")
    if tuple(symbols[:4]) != SPECIALS or symbols[-1] != MASK:
        raise CheckpointError(f"{path}: must begin with {' '.join(SPECIALS)} and end with {MASK}")
    return symbols, str(path)


def _renamed(name: str, layer: str, new_layer: str, pairs: Any, layer_pairs: Any) -> str | None:
    if name.startswith(layer):
        number, _, rest = name.removeprefix(layer).partition(".")
        inner = next((new + rest.removeprefix(old) for old, new in layer_pairs if rest.startswith(old)), None)
        return None if inner is None else f"{new_layer}{number}.{inner}"
    for old, new in pairs:
        if name.startswith(old) if old.endswith(".") else name == old:
            return str(new) + name.removeprefix(old)
    return None


# ------------------------------------------------------------------------------------------ writing


def write_masked_folder(folder: Path, file: ModelFile, *, as_bin: bool = False) -> list[str]:
    """Write a folder that transformers reads, and return the names of its files.

    Args:
        folder: made if need be; files of the same names are replaced.
        file: a masked language model.
        as_bin: write `pytorch_model.bin` instead of `model.safetensors`.

    Raises:
        CheckpointError: the model has no counterpart there, or the folder cannot be written.
    """
    entry = MODELS.get(file.name)
    options = to_plain(build_config(entry.config, {**entry.overrides, **file.config["model"]}, file.path))
    if options["activation_fn"] != "gelu" or options["encoder_normalize_before"]:
        raise CheckpointError(f"--to huggingface: {file.path}: {CLASS} has --activation-fn gelu, and norms come last")
    if file.symbols is None:
        raise CheckpointError(f"{file.path}: has no dictionary; name one with --dict")
    state = _their_state(file.state)
    sections = {name: dict(part) for name, part in file.config.items() if name in ("task", "model", "criterion")}
    config: dict[str, Any] = {
        "architectures": [CLASS],
        "model_type": "roberta",
        "vocab_size": len(file.symbols),
        # transformers counts its rows with the two that come before the first position.
        "max_position_embeddings": len(file.state[POSITIONS]),
        "type_vocab_size": 1,
        "tie_word_embeddings": OUTPUT not in file.state,
        **{name: wanted for name, (wanted, _) in ONLY.items()},
        **{theirs: options[ours] for ours, theirs in OPTIONS},
        "torch_dtype": str(file.state[TOKENS].dtype).removeprefix("torch."),
        "w2v": {**sections, "trainer": {"num_updates": file.num_updates, "score": file.score}},
    }
    files = {CONFIG_FILE: config, **_tokenizer_files(file.symbols, options["max_positions"])}
    return write_parts(folder, state, files, as_bin=as_bin)


def _their_state(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        theirs = _renamed(name, OUR_LAYER, THEIR_LAYER, NAMES, LAYER_NAMES)
        if theirs is None:
            raise CheckpointError(f"--to huggingface: {CLASS} has no tensor for {name}")
        state[theirs] = tensor
    state[SEGMENTS] = torch.zeros_like(ours[TOKENS][:1])
    state[THEIR_COPY] = ours["encoder.lm_head.bias"].clone()
    return state


def _tokenizer_files(symbols: list[str], max_positions: int) -> dict[str, dict[str, Any]]:
    special = [*SPECIALS, MASK]
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    added = [
        {
            "id": numbers[symbol], "content": symbol, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for symbol in special
    ]  # fmt: skip
    sentence = [_piece(SPECIALS[0]), {"Sequence": {"id": "A", "type_id": 0}}, _piece(SPECIALS[2])]
    template = {
        "type": "TemplateProcessing",
        "single": sentence,
        "pair": [*sentence, {"Sequence": {"id": "B", "type_id": 0}}, _piece(SPECIALS[2])],
        "special_tokens": {
            symbol: {"id": symbol, "ids": [numbers[symbol]], "tokens": [symbol]}
            for symbol in (SPECIALS[0], SPECIALS[2])
        },
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": template,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": numbers, "unk_token": SPECIALS[3]},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIALS[0], "pad_token": SPECIALS[1],
        "eos_token": SPECIALS[2], "unk_token": SPECIALS[3], "cls_token": SPECIALS[0], "sep_token": SPECIALS[2],
        "mask_token": MASK, "model_max_length": max_positions,
    }  # fmt: skip
    return {TOKENIZER_FILE: tokenizer, "tokenizer_config.json": settings}


def _piece(symbol: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": symbol, "type_id": 0}}
