"""Checkpoints of HuBERT and data2vec: the original's layout, and Hugging Face's classes as the other implementation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_hubert import close, forward, lengths_of
from torch import Tensor

from w2v.config import build_config
from w2v.convert import ModelFile, read_model_file
from w2v.convert.fairseq_file import write_fairseq
from w2v.convert.huggingface_folder import write_huggingface
from w2v.convert.symbols import LETTERS
from w2v.errors import CheckpointError
from w2v.inference.load import build_model, load_model
from w2v.models import MODELS
from w2v.models.wav2vec_ctc import Wav2VecCtc

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": [16] * 3,
    "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
    "num_conv_pos_embeddings": 16, "pad_token_id": 0,
}  # fmt: skip
NORMS = {
    "group": {},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}
DATA2VEC = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 7}
GIVEN = [("Hubert", "group"), ("Hubert", "layer"), ("Data2VecAudio", "group")]


@pytest.fixture(scope="module")
def case(golden: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(golden / "beyond/hubert.pt", weights_only=True)["cases"][0]
    return found


@pytest.fixture(scope="module")
def original(golden: Path) -> ModelFile:
    return read_model_file(golden / "beyond/checkpoints/hubert/hubert.pt")


def check(file: ModelFile, case: dict[str, Any]) -> None:
    """Compare what the model of a file computes with what was recorded of it."""
    loaded = build_model(file, {"original_padding": True})
    model: Any = loaded.model
    assert model.num_classes == list(case["num_classes"])
    assert model.labels_per_frame == case["feat2tar_ratio"]
    with torch.no_grad():
        output = forward(model, case)
        for scores, logits in zip(output.masked, case["logits_m"], strict=True):
            close(scores.logits, logits)
        found = model.extract_features(case["source"], lengths_of(case), with_layers=True)
    true = ~case["extract_features_padding_mask"]
    for layer, expected in zip([*found.layers, found.features], case["extract_features_layers"], strict=True):
        close(layer[true], expected[true])


def test_the_originals_file_and_back(original: ModelFile, case: dict[str, Any], tmp_path: Path) -> None:
    check(original, case)
    assert original.config["task"]["_name"] == "hubert_pretraining"
    assert original.config["task"]["labels"] == "km"
    write_fairseq(tmp_path / "back.pt", original)
    check(read_model_file(tmp_path / "back.pt"), case)
    pytest.importorskip("safetensors")
    write_huggingface(tmp_path / "folder", original)
    assert (tmp_path / "folder" / "w2v_extra.safetensors").is_file()
    again = read_model_file(tmp_path / "folder")
    check(again, case)
    assert all(torch.equal(tensor, original.state[name]) for name, tensor in again.state.items())
    (tmp_path / "folder" / "w2v_extra.safetensors").unlink()
    assert read_model_file(tmp_path / "folder").name == "wav2vec2_encoder"


def test_fine_tuning_from_it(original: ModelFile, case: dict[str, Any], tmp_path: Path) -> None:
    """The encoder is that of pretraining; what is fine-tuned goes both ways."""
    entry = MODELS.get("hubert")
    pretrained = build_config(entry.config, original.config["model"], "test")
    options = {"apply_mask": False, "original_padding": True}
    config: Any = build_config(MODELS.get("wav2vec_ctc").config, options, "test")
    model = Wav2VecCtc.build(config, num_classes=32, pretrained_config=pretrained, pretrained_state=original.state)
    clip = case["source"][:1, : int(case["lengths"][0])]
    close(model.eval().extract_features(clip).features, case["extract_features_first_alone"])
    sections = {
        "task": {"_name": "audio_pretraining", "data": ".", "labels": "ltr"},
        "model": {"_name": "wav2vec_ctc", **dataclasses.asdict(model.config)},
    }
    file = ModelFile("test", "w2v", sections, model.state_dict(), list(LETTERS), "the test")
    with torch.no_grad():
        expected = model(clip).logits
        for name, write in (("ft.pt", write_fairseq), ("ft", write_huggingface)):
            write(tmp_path / name, file)
            close(load_model(tmp_path / name, overrides={"original_padding": True}).model(clip).logits, expected)
    content = torch.load(tmp_path / "ft.pt", weights_only=False, pickle_module=_Lenient)
    assert content["cfg"]["model"]["_name"] == "hubert_ctc"
    assert content["cfg"]["model"]["w2v_args"]["model"]["_name"] == "hubert"


def test_dictionaries_that_do_not_fit(original: ModelFile, golden: Path, tmp_path: Path) -> None:
    file = dataclasses.replace(original, config={**original.config})
    file.config["model"] = {**file.config["model"], "num_classes": [20]}
    write_fairseq(tmp_path / "bad.pt", file)
    with pytest.raises(CheckpointError, match="its dictionaries have 20 symbols, its label_embs_concat 24 rows"):
        read_model_file(tmp_path / "bad.pt")


@pytest.mark.parametrize(("family", "norm"), GIVEN)
@pytest.mark.parametrize("head", ["Model", "ForCTC"])
@torch.no_grad()
def test_against_transformers(family: str, norm: str, head: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    options = {**TINY, **NORMS[norm], **(DATA2VEC if family == "Data2VecAudio" else {})}
    torch.manual_seed(1)
    theirs = getattr(transformers, family + head)(getattr(transformers, f"{family}Config")(**options)).eval()
    for parameter in theirs.parameters():
        parameter += 0.1 * torch.rand_like(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    symbols = "".join(f"{symbol} 1\n" for symbol in LETTERS[4:])
    (tmp_path / "theirs" / "dict.ltr.txt").write_text(symbols)
    file = read_model_file(tmp_path / "theirs", dictionary=str(tmp_path / "theirs" / "dict.ltr.txt"))
    source = torch.randn(2, 3000)

    def compare(model: Any, theirs: Any) -> None:
        if head == "ForCTC":
            close(model(source).logits, theirs(source).logits, 1e-4)
            close(model.extract_features(source, layer=1).features, hidden(theirs, source)[1], 1e-4)
        else:
            close(model.extract_features(source).features, theirs(source).last_hidden_state, 1e-4)
        # A clip alone and in a batch: data2vec's second convolution never reads what lies behind a clip.
        alone = model.extract_features(source[:1, :2000]).features
        batch = model.extract_features(source, torch.tensor([2000, 3000])).features
        close(batch[:1, : alone.shape[1]], alone, 1e-4)

    compare(build_model(file).model, theirs)
    write_huggingface(tmp_path / "ours", file)
    name = family if family == "Data2VecAudio" or head == "ForCTC" else "Wav2Vec2"
    back = getattr(transformers, name + head).from_pretrained(tmp_path / "ours").eval()
    compare(build_model(file).model, back)
    assert all(torch.equal(tensor, file.state[key]) for key, tensor in read_model_file(tmp_path / "ours").state.items())


def hidden(model: Any, source: Tensor) -> Any:
    return model(source, output_hidden_states=True).hidden_states


class _Lenient:
    """Reads a pickle that names classes of fairseq."""

    import pickle as _pickle

    class Unpickler(_pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(module, name) if not module.startswith("fairseq") else _Any

    load = staticmethod(_pickle.load)


class _Any:
    pass
