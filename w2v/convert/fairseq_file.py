"""Writes a model as the original's later releases write theirs: a `cfg` of plain dicts (2021 and after).

A fine-tuned file holds the dictionary as an object of a class of fairseq. That class is named in the pickle, as the
original's own files name it; it is not needed to write it.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w2v.checkpoint.file import save_torch_file
from w2v.config import build_config, str_tuple, to_plain
from w2v.convert.fairseq_config import HUBERT_TASK_OPTIONS, MASKED_TASK_OPTIONS, NEW_HERE, TASK_OPTIONS
from w2v.convert.hubert_model import QUANTIZER_OPTIONS, class_symbols
from w2v.convert.masked_model_state import to_fairseq_names
from w2v.convert.model_file import CTC, ENCODER, HUBERT, LANGUAGE_MODEL, MASKED_MODEL, ModelFile
from w2v.criterions import CRITERIONS
from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.errors import CheckpointError
from w2v.files import write_atomically
from w2v.models import MODELS

SECTIONS = (
    "common", "common_eval", "distributed_training", "dataset", "optimization", "checkpoint", "bmuf", "generation",
    "eval_lm", "interactive", "model", "task", "criterion", "optimizer", "lr_scheduler", "scoring", "bpe", "tokenizer",
    "ema", "simul_type",
)  # fmt: skip
SPELLED_OUT = ("conv_feature_layers", "conv_aggregator_layers")
"""Options that the original keeps as text."""
DROPPED_THERE = {"encoder"}
BASE_NAMES = {
    "Wav2VecConfig": "wav2vec", "Wav2Vec2Config": "wav2vec2", "Wav2VecCtcConfig": CTC, "RobertaConfig": MASKED_MODEL,
    "HubertConfig": HUBERT,
}  # fmt: skip


class _Dictionary:
    """What the original's `Dictionary` holds; pickled under its name."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.bos_word, self.pad_word, self.eos_word, self.unk_word = symbols[:4]
        self.symbols = list(symbols)
        self.count = [1] * len(symbols)
        self.indices = {symbol: number for number, symbol in enumerate(symbols)}
        self.bos_index, self.pad_index, self.eos_index, self.unk_index = range(4)
        self.nspecial = 4


# The one written in Python: only there can a name be written without its class.
_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):  # type: ignore[misc]
    def save(self, obj: Any, save_persistent_id: bool = True) -> Any:
        if not isinstance(obj, _Dictionary):
            return super().save(obj, save_persistent_id)
        self.write(pickle.GLOBAL + b"fairseq.data.dictionary\nDictionary\n" + pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.memoize(obj)
        super().save(vars(obj))
        return self.write(pickle.BUILD)


_PICKLE = types.SimpleNamespace(__name__="w2v", Pickler=_Pickler)


def write_fairseq(path: Path, file: ModelFile) -> None:
    """Write a checkpoint that the original (after February 2021) reads; of a masked model also `dict.txt` beside it.

    Raises:
        CheckpointError: the original has no such model, or the disk is full or not writable.
    """
    kind = BASE_NAMES.get(MODELS.get(file.name).config.__name__) if file.name in MODELS.names() else None
    if kind is None:
        reason = "fairseq has no encoder without a head" if file.name == ENCODER else "fairseq does not know it"
        if file.name.startswith(LANGUAGE_MODEL):
            reason = "language models are read from fairseq, and not written for it"
        raise CheckpointError(f"--to fairseq: {file.path} holds a {file.name}; {reason}")
    cfg = _masked_config(file) if kind == MASKED_MODEL else _config(file, kind)
    losses = {CTC: "CtcCriterion", MASKED_MODEL: "MaskedLmLoss", HUBERT: "HubertCriterion"}
    state: dict[str, Any] = dict(file.state)
    task_state: dict[str, Any] = {}
    if kind == MASKED_MODEL:
        state = to_fairseq_names(state)
        _write_tokens(path.parent / "dict.txt", file)
    elif kind == HUBERT:
        task_state = {"dictionaries": [_Dictionary(s) for s in class_symbols(file.config["model"]["num_classes"])]}
    elif file.symbols is not None:
        task_state = {"target_dictionary": _Dictionary(file.symbols)}
    content = {
        "args": None,
        "cfg": cfg,
        "model": state,
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": losses.get(kind, "Wav2vecCriterion"),
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": file.num_updates,
            }
        ],
        "task_state": task_state,
        "extra_state": {
            "train_iterator": {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": None,
            "previous_training_time": 0.0,
        },
    }
    save_torch_file(path, content, _PICKLE)


def _config(file: ModelFile, kind: str) -> dict[str, Any]:
    cfg: dict[str, Any] = {"_name": None}
    cfg |= {section: {"_name": None, **file.config.get(section, {})} for section in SECTIONS}
    options = HUBERT_TASK_OPTIONS if kind == HUBERT else TASK_OPTIONS
    task = {name: value for name, value in file.config["task"].items() if name in options}
    task = {"data": ".", "labels": None, "sample_rate": 16000, "normalize": False, **task}
    task_name = {CTC: "audio_finetuning", HUBERT: "hubert_pretraining"}.get(kind, "audio_pretraining")
    cfg["task"] = {"_name": task_name, **task}
    cfg["model"] = _model(file.config["model"], kind, file.path)
    if kind == HUBERT:
        cfg["task"]["labels"] = str_tuple(task["labels"] or "km")
        cfg["model"]["label_rate"] = task.get("label_rate", -1.0)
    name = {CTC: "ctc", HUBERT: HUBERT}.get(kind, "wav2vec")
    values = {k: v for k, v in file.config.get("criterion", {}).items() if not k.startswith("_")}
    cfg["criterion"] = {"_name": name, **to_plain(build_config(CRITERIONS.get(name).config, values, file.path))}
    for section in ("bpe", "tokenizer", "simul_type"):
        cfg[section] = None
    if kind == CTC:
        cfg["model"] |= {"normalize": task["normalize"], "data": task["data"]}
        encoder = file.config["model"].get("w2v_args") or {}
        is_hubert = str(encoder.get("_name", "")).startswith(HUBERT)
        if is_hubert:
            cfg["model"]["_name"] = "hubert_ctc"
        pretrained = {
            **cfg,
            "model": _model(encoder, HUBERT if is_hubert else "wav2vec2", file.path),
            "task": {
                **cfg["task"],
                "_name": "hubert_pretraining" if is_hubert else "audio_pretraining",
                "labels": None,
            },
            "criterion": None,
            "lr_scheduler": None,
        }
        cfg["model"]["w2v_args"] = pretrained
    return cfg


def _masked_config(file: ModelFile) -> dict[str, Any]:
    cfg: dict[str, Any] = {"_name": None}
    cfg |= {section: {"_name": None, **file.config.get(section, {})} for section in SECTIONS}
    task = {name: value for name, value in file.config["task"].items() if name in MASKED_TASK_OPTIONS}
    task["shorten_data_split_list"] = ",".join(task.get("shorten_data_split_list") or ())
    cfg["task"] = {"_name": "masked_lm", "data": ".", **task}
    sizes = {"arch": MASKED_MODEL, "tokens_per_sample": task.get("tokens_per_sample", 512)}
    cfg["model"] = {**_model(file.config["model"], MASKED_MODEL, file.path), **sizes}
    cfg["criterion"] = {"_name": "masked_lm", "tpu": False}
    return {**cfg, "bpe": None, "tokenizer": None, "simul_type": None}


def _write_tokens(path: Path, file: ModelFile) -> None:
    """Write the dictionary, which the original looks for beside a masked model; `<mask>` is not in it."""
    if file.symbols is None:
        raise CheckpointError(f"{file.path}: has no dictionary; name one with --dict")
    symbols = file.symbols[len(SPECIALS) : -1]
    if path.exists() and Dictionary.from_file(path).symbols[len(SPECIALS) :] != symbols:
        raise CheckpointError(f"{path}: is another dictionary than the model's, and would be replaced; write elsewhere")
    if not path.exists():
        write_atomically(path, "".join(f"{symbol} 1\n" for symbol in symbols).encode())


def _model(values: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """Return all options of a model in the original's spelling; presets are spelled out."""
    name = values.get("_name", kind)
    entry = MODELS.get(name if name in MODELS.names() else kind)
    config: Any = build_config(entry.config, {**entry.overrides, **values}, where)
    defaults = to_plain(build_config(MODELS.get(kind).config, {}, where))
    plain = {**defaults, **to_plain(config)}
    if plain.get("adapter_attn_dim"):
        raise CheckpointError(f"--to fairseq: {where} has adapters (MMS), whose tensors have another layout there")
    dropped = NEW_HERE | DROPPED_THERE | (QUANTIZER_OPTIONS if kind == HUBERT else set())
    plain = {name: value for name, value in plain.items() if name not in dropped}
    for option in SPELLED_OUT:
        if option in plain:
            plain[option] = repr([tuple(layer) for layer in plain[option]])
    return {"_name": kind, **plain}
