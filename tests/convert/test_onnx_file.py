"""Exported graphs compute what the model computes, for any batch size and length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.convert import read_model_file
from w2v.convert.onnx_file import write_onnx
from w2v.convert.onnx_graph import plain_forward
from w2v.errors import CheckpointError
from w2v.inference.load import load_model

NAMES = ("ctc_base", "ctc_large", "w2v2_base", "w2v2_large")


def wanted(model: Any, source: torch.Tensor, output: str) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = (
            model(source, None, 0).logits if output == "logits" else model.extract_features(source, None).features
        )
    return result


@pytest.mark.parametrize("name", NAMES)
def test_plain_operators_compute_the_same(golden: Path, name: str) -> None:
    loaded = load_model(golden / "checkpoints/g3_cfg" / f"{name}.pt")
    module, output = plain_forward(loaded.model, name)
    for size in ((1, 400), (2, 8000), (3, 12345)):
        source = torch.randn(size)
        with torch.inference_mode():
            found = module(source)
        torch.testing.assert_close(found, wanted(loaded.model, source, output), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_computes_the_same(golden: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = golden / "checkpoints/g3_cfg" / f"{name}.pt"
    loaded, file = load_model(path), read_model_file(path)
    write_onnx(tmp_path / "x.onnx", loaded.model, file)
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    assert output == ("logits" if name.startswith("ctc") else "features")
    for size in ((1, 400), (2, 8000), (5, 12345), (1, 30001)):
        source = torch.randn(size)
        (found,) = session.run(None, {"source": source.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted(loaded.model, source, output), rtol=1e-4, atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["normalize"] == str(file.normalize).lower()
    assert metadata["sample_rate"] == "16000"
    assert metadata.get("symbols", "").split("\n") == (file.symbols or [""])


def test_other_models_are_refused(golden: Path) -> None:
    for name in ("w2v1", "vq_kmeans"):
        loaded = load_model(golden / "checkpoints/g3_cfg" / f"{name}.pt")
        with pytest.raises(CheckpointError, match=r"only wav2vec 2\.0 can be exported"):
            plain_forward(loaded.model, name)
