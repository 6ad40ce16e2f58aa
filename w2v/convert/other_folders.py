"""Folders that are uploaded beside those that open here: what each one is, and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from w2v.convert.huggingface_symbols import read_json
from w2v.convert.weight_files import WEIGHTS
from w2v.errors import CheckpointError, listed

CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"
TAKE_ITS_SOURCE = "take the model that it was made from"
KERAS = "transformers 4 converts them: from_pretrained(FOLDER, from_{}=True), then save_pretrained"
# pattern -> what it holds, and the next step
OTHERS = {
    "tf_model*.h5": ("weights of TensorFlow", KERAS.format("tf")),
    "flax_model*.msgpack": ("weights of Flax", KERAS.format("flax")),
    "rust_model.ot": ("weights of rust-bert", TAKE_ITS_SOURCE),
    "*.gguf": ("a GGUF model", TAKE_ITS_SOURCE),
    "*.nemo": ("a NeMo model", "NeMo opens it; only models of wav2vec's kin open here"),
    "openvino*": ("an OpenVINO graph", TAKE_ITS_SOURCE),
    "*.mlpackage": ("a Core ML model", TAKE_ITS_SOURCE),
    "onnx/*.onnx": ("an ONNX graph", TAKE_ITS_SOURCE),
    "*model*-of-*": ("shards without the index that names them", "download the index, too (*.index.json)"),
}


def check_folder(folder: Path) -> None:
    """Check that a folder has a configuration and weights.

    Raises:
        CheckpointError: saying what it has instead.
    """
    has_weights = any((folder / f"{name}{end}").is_file() for name in WEIGHTS for end in ("", ".index.json"))
    if not has_weights and (folder / ADAPTER_FILE).is_file():
        base = read_json(folder / ADAPTER_FILE).get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder}: is a LoRA adapter of {str(base)[:80]} and no whole model; merge it in Python "
            "(peft: merge_and_unload), save the result with save_pretrained, and open that folder"
        )
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder}: is a folder without {CONFIG_FILE}{_instead(folder)}")
    if not has_weights:
        raise CheckpointError(f"{folder}: holds neither {' nor '.join(WEIGHTS)}{_instead(folder)}")


def _instead(folder: Path) -> str:
    checkpoints = sorted(path.name for path in folder.glob("*.pt"))
    if checkpoints:
        first = sorted(checkpoints, key=lambda name: (name != "checkpoint_best.pt", name))
        return f"; name a checkpoint in it: {listed(first, 3)}"
    for pattern, (what, step) in OTHERS.items():
        found = sorted(folder.glob(pattern))
        if found:
            return f"; {found[0].relative_to(folder)} holds {what}: {step}"
    return ""


def refuse_quantised(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Check that weights are numbers as they were trained: those of 8 bits mean nothing without their scales.

    Raises:
        CheckpointError: they are quantised.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.element_size() > 1:
            continue
        settings = config.get("quantization_config")
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        raise CheckpointError(
            f"{folder}: its weights are quantised ({method or str(tensor.dtype).removeprefix('torch.')}: "
            f"{name[:80]}); take the model that it was made from, or save it by transformers' "
            "from_pretrained, dequantize and save_pretrained; --int8 computes in 8 bits here"
        )
