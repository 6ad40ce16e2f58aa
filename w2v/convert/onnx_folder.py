"""Folders that onnx-asr opens: `model.onnx`, `vocab.txt`, `config.json`, and the same model in fewer bits beside it.

The graph takes raw samples, `input_values` (batch, samples) and `input_lengths` (batch,), and gives `logprobs`
(batch, frames, symbols): clips are normalised inside, padding counts nowhere, and past the end of a clip the blank is
certain. onnx-asr calls this kind of model `wav2vec2-ctc`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from w2v.convert.model_file import ModelFile
from w2v.convert.onnx_file import EXAMPLE_SAMPLES, export, import_onnx, save
from w2v.convert.onnx_graph import PlainForward, Recognizer, plain_forward
from w2v.data.audio import NORMALIZE_EPSILON
from w2v.data.dictionary import SPECIALS
from w2v.data.post_process import MARKS, fitting_post_process
from w2v.errors import CheckpointError, MissingPackageError
from w2v.functional.conv_spec import total_stride
from w2v.models.base import W2vModel
from w2v.modules.conv_feature_extractor import ConvBlock

MODEL, VOCABULARY, CONFIG = "model.onnx", "vocab.txt", "config.json"
MODEL_TYPE = "wav2vec2-ctc"
SAMPLE_RATE = 16000
"""The rate that onnx-asr gives to models of this kind."""
FORMATS = ("fp16", "int8")
BLANK, SPACE = "<blk>", "\u2581"
"""How onnx-asr calls the blank and the space."""


def write_onnx_folder(folder: Path, model: W2vModel, file: ModelFile, formats: Sequence[str] = ()) -> list[str]:
    """Write a folder that onnx-asr opens, and return the names of its files.

    Args:
        folder: made if need be; files of the same names are replaced.
        model: a CTC model.
        file: where it is from.
        formats: which further files to write, of `FORMATS`: `model.fp16.onnx`, `model.int8.onnx`.

    Raises:
        CheckpointError: the model writes no symbols, has another sample rate, or the folder cannot be written.
        MissingPackageError: onnx is not installed, or onnxruntime, which int8 needs.
    """
    module, output = plain_forward(model, file.path)
    if output != "logits" or file.symbols is None:
        raise CheckpointError(
            f"--to onnx: {file.path} writes no symbols, so onnx-asr cannot open it; name a file that ends in .onnx"
        )
    rate = file.sample_rate
    if rate != SAMPLE_RATE:
        raise CheckpointError(
            f"--to onnx: onnx-asr gives models {SAMPLE_RATE} Hz, and {file.path} takes {rate}; "
            "name a file that ends in .onnx"
        )
    graphs = {MODEL: _graph(module, file)}
    if "fp16" in formats:
        graphs["model.fp16.onnx"] = _graph(copy.deepcopy(module).half(), file)
    if "int8" in formats:
        graphs["model.int8.onnx"] = _in_int8(graphs[MODEL])
    config = {"model_type": MODEL_TYPE, "subsampling_factor": _stride(module), "sample_rate": rate}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VOCABULARY).write_text(vocabulary(file), encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be written: {e.strerror or e}") from e
    for name, graph in graphs.items():
        save(folder / name, graph, file)
    return [VOCABULARY, CONFIG, *graphs]


def vocabulary(file: ModelFile) -> str:
    """Return `vocab.txt`: a symbol and its number in each line, in the words of onnx-asr.

    Symbols that are kept apart (phones) begin with a space there, because onnx-asr joins all of them.
    """
    assert file.symbols is not None
    symbol = str(file.config.get("criterion", {}).get("post_process", "letter") or "none")
    is_apart = fitting_post_process(symbol, file.symbols) == "none"
    mark = MARKS.get(symbol)
    lines = [f"{BLANK} 0"]
    for number, name in enumerate(file.symbols[1:], 1):
        if name in SPECIALS:
            text = name
        elif is_apart:
            text = SPACE + name
        else:
            text = name if mark is None else name.replace(mark, SPACE)
        lines.append(f"{text} {number}")
    return "\n".join(lines) + "\n"


def _graph(module: PlainForward, file: ModelFile) -> Any:
    epsilon = float(file.config["task"].get("normalize_epsilon", NORMALIZE_EPSILON)) if file.normalize else None
    # The second clip is shorter, so that the exporter sees padding.
    lengths = torch.tensor([EXAMPLE_SAMPLES, EXAMPLE_SAMPLES // 2])
    inputs = {"input_values": torch.randn(2, EXAMPLE_SAMPLES), "input_lengths": lengths}
    return export(Recognizer(module, epsilon).eval(), inputs, "logprobs")


def _in_int8(graph: Any) -> Any:
    """Return the graph with the weights of its linear layers in whole numbers of 8 bits, scaled by row of outputs."""
    onnx = import_onnx("--formats int8")
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as e:
        raise MissingPackageError("onnxruntime", "onnx", "--formats int8") from e
    # The output layer is small, and errors in it weigh most: it is the last product.
    last = [node.name for node in graph.graph.node if node.op_type == "MatMul"][-1:]
    whole = onnx.ModelProto()
    whole.CopyFrom(graph)  # it is changed in place
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            whole, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
            nodes_to_exclude=last,
        )  # fmt: skip
        return onnx.load_model(str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice to prepare the graph first away: its shapes are free."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _stride(module: PlainForward) -> int:
    blocks = [block for block in module.encoder.feature_extractor.conv_layers if isinstance(block, ConvBlock)]
    return total_stride([(0, 0, block.stride) for block in blocks])
