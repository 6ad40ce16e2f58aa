"""Writes CTC models and encoders of wav2vec 2.0 for ONNX runtimes, and tells what such a file is.

A file has free batch size and length. Its clips must be equally long, and prepared by the caller: the folder that
`onnx_folder` writes knows padding, and takes raw samples.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from w2v.convert.model_file import ModelFile
from w2v.convert.onnx_graph import plain_forward
from w2v.errors import CheckpointError, MissingPackageError
from w2v.files import atomic_path
from w2v.models.base import W2vModel

OPSET = 17
EXAMPLE_SAMPLES = 16_000


def write_onnx(path: Path, model: W2vModel, file: ModelFile) -> None:
    """Write a graph from `source` (batch, samples) to `logits` or `features` (batch, frames, width).

    Symbols, sample rate and the normalisation flag are in the metadata. A model of more than 2 GB cannot be written.

    Raises:
        CheckpointError: the model cannot be exported, or the file not be written.
        MissingPackageError: onnx is not installed.
    """
    module, output = plain_forward(model, file.path)
    graph = export(module, {"source": torch.zeros(2, EXAMPLE_SAMPLES)}, output)
    save(path, graph, file)


def export(module: nn.Module, inputs: Mapping[str, Tensor], output: str) -> Any:
    """Return the ONNX graph of a module; batch, samples and frames are free.

    Args:
        module: called with the inputs in their order.
        inputs: examples, (B, S) or (B,).
        output: name of what it returns, (B, T, ...).

    Raises:
        MissingPackageError: onnx is not installed.
    """
    onnx = import_onnx("--to onnx")
    buffer = io.BytesIO()
    axes = {name: dict(enumerate(("batch", "samples")[: tensor.dim()])) for name, tensor in inputs.items()}
    with torch.no_grad(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={**axes, output: {0: "batch", 1: "frames"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_model_from_string(buffer.getvalue())


def save(path: Path, graph: Any, file: ModelFile) -> None:
    """Write a graph with what its caller must know in the metadata.

    Raises:
        CheckpointError: the file cannot be written.
    """
    metadata = {"sample_rate": str(file.sample_rate), "normalize": str(file.normalize).lower()}
    if file.symbols is not None:
        metadata["symbols"] = "\n".join(file.symbols)
    for name, value in metadata.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = name, value
    try:
        with atomic_path(path) as part:
            part.write_bytes(graph.SerializeToString())
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be written: {e.strerror or e}") from e


def describe_onnx(path: Path) -> Iterator[str]:
    """Yield lines that tell what an ONNX file is.

    Raises:
        CheckpointError: the file cannot be read.
        MissingPackageError: onnx is not installed.
    """
    onnx = import_onnx(f"--inspect {path}")
    try:
        # Weights of more than 2 GB lie in a second file, and are not needed.
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as e:  # protobuf has errors of its own, which depend on its version
        raise CheckpointError(f"{path}: cannot be read, it is damaged or no ONNX file ({str(e)[:120]})") from e
    graph = model.graph
    sizes = [(torch.Size(part.dims).numel(), part.data_type) for part in graph.initializer]
    kinds = sorted({onnx.TensorProto.DataType.Name(kind).lower() for _, kind in sizes})
    yield f"file: {path}"
    yield f"kind: ONNX, opset {max((entry.version for entry in model.opset_import), default=0)}"
    yield f"parameters: {sum(size for size, _ in sizes):,} in {len(sizes)} tensors ({', '.join(kinds)})"
    for word, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = ", ".join(axis.dim_param or str(axis.dim_value) for axis in tensor.shape.dim)
            yield f"{word}: {value.name} ({shape}) {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if "sample_rate" in metadata:
        is_normalized = metadata.get("normalize") == "true"
        yield f"audio: {metadata['sample_rate']} Hz, {'normalised per clip' if is_normalized else 'as it is'}"
    if "symbols" in metadata:
        symbols = metadata["symbols"].split("\n")
        yield f"dictionary: {len(symbols)} symbols, from the file: {' '.join(symbols[:40])}"


def is_onnx_folder(folder: Path) -> bool:
    """Tell whether a folder holds graphs, and no checkpoint beside them."""
    weights = (name for pattern in ("*.safetensors", "*.bin") for name in folder.glob(pattern))
    return any(folder.glob("*.onnx")) and not any(weights)


def import_onnx(wanted_by: str) -> Any:
    """Return the package.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import onnx
    except ImportError as e:
        raise MissingPackageError("onnx", "onnx", wanted_by) from e
    return onnx


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own log lines away."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
