"""Files in the original's format: what it would find in them, by its own recorded files and shapes."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.checkpoint.file import save_checkpoint
from w2v.checkpoint.torch_file import read_torch_file
from w2v.checkpoint.unpickle import plain_data
from w2v.config import ArgumentParser, build_config, to_plain
from w2v.convert import ModelFile, read_model_file
from w2v.convert.fairseq_config import TASK_OPTIONS
from w2v.convert.fairseq_file import write_fairseq
from w2v.convert.symbols import LETTERS
from w2v.convert.w2v_file import write_own
from w2v.errors import CheckpointError
from w2v.inference.load import build_model, load_model
from w2v.models import MODELS
from w2v.models.wav2vec_ctc import Wav2VecCtc
from w2v.tasks.audio_pretraining import AudioPretrainingConfig

NAMES = ("w2v1", "vq_gumbel", "vq_kmeans", "w2v2_base", "w2v2_large", "ctc_base", "ctc_large")
SHAPES = sorted((Path(__file__).parents[1] / "assets/shapes").glob("*.json"))


def test_the_task_options_are_those_of_the_task() -> None:
    assert set(TASK_OPTIONS) <= set(AudioPretrainingConfig.__dataclass_fields__)


@pytest.mark.parametrize("name", NAMES)
def test_an_own_file_becomes_one_of_the_originals(golden: Path, tmp_path: Path, name: str) -> None:
    """Ours, converted, has the keys, options and tensors of a file that the original wrote."""
    recorded = golden / "checkpoints/g3_cfg" / f"{name}.pt"
    write_own(tmp_path / "own.pt", read_model_file(recorded))
    assert read_model_file(tmp_path / "own.pt").kind == "w2v"
    write_fairseq(tmp_path / "back.pt", read_model_file(tmp_path / "own.pt"))
    found, wanted = read_torch_file(tmp_path / "back.pt"), read_torch_file(recorded)
    assert set(found) == set(wanted) - {"last_optimizer_state"}
    assert list(found["model"]) == list(wanted["model"])
    for key, tensor in wanted["model"].items():
        assert torch.equal(found["model"][key], tensor)
    cfg, recorded_cfg = plain_data(found["cfg"]), plain_data(wanted["cfg"])
    assert set(cfg) == set(recorded_cfg)
    for section in ("task", "model"):
        assert set(cfg[section]) <= set(recorded_cfg[section])
        assert cfg[section]["_name"] == recorded_cfg[section]["_name"]
    known = set(recorded_cfg["criterion"])
    assert set(cfg["criterion"]) <= known
    for option, value in cfg["model"].items():
        if option in ("w2v_args", "conv_feature_layers", "conv_aggregator_layers"):
            continue
        assert value == recorded_cfg["model"][option], option
    assert set(found["extra_state"]) <= {*wanted["extra_state"], "val_loss"}
    history, recorded_history = found["optimizer_history"][-1], wanted["optimizer_history"][-1]
    assert set(history) == set(recorded_history)
    assert history["num_updates"] == recorded_history["num_updates"]
    assert history["criterion_name"] == recorded_history["criterion_name"]
    if name.startswith("ctc"):
        encoder = cfg["model"]["w2v_args"]
        assert set(encoder) == set(recorded_cfg["model"]["w2v_args"])
        assert set(encoder["model"]) <= set(recorded_cfg["model"]["w2v_args"]["model"])
        assert cfg["model"]["normalize"] == cfg["task"]["normalize"] == encoder["task"]["normalize"]


@pytest.mark.parametrize("name", ["ctc_base", "ctc_large"])
def test_the_dictionary_is_an_object_of_the_originals_class(
    golden: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own unpickler, with a class under the original's name, builds the same dictionary of both files."""
    module = types.ModuleType("fairseq.data.dictionary")
    module.Dictionary = type("Dictionary", (), {"__module__": "fairseq.data.dictionary"})  # type: ignore[attr-defined]
    for parent in ("fairseq", "fairseq.data"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, "fairseq.data.dictionary", module)
    recorded = golden / "checkpoints/g3_cfg" / f"{name}.pt"
    write_fairseq(tmp_path / "x.pt", read_model_file(recorded))
    objects = []
    for path in (tmp_path / "x.pt", recorded):
        content: Any = torch.load(path, weights_only=False)
        objects.append(vars(content["task_state"]["target_dictionary"]))
    counts = [content.pop("count") for content in objects]
    assert objects[0] == objects[1]
    assert len(counts[0]) == len(counts[1])


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_full_size_names_and_shapes(tmp_path: Path, path: Path) -> None:
    """A model of the published size keeps the recorded names and shapes through our files and the original's."""
    recorded = json.loads(path.read_text())
    wanted = {name: tuple(shape) for name, shape in _shapes(recorded).items()}
    kind = "wav2vec_ctc" if path.stem.startswith("ctc") else "wav2vec2" if path.stem.startswith("w2v2") else "wav2vec"
    flags = recorded["flags"]
    if kind == "wav2vec_ctc":
        flags = json.loads(path.with_name("w2v2_base_recipe.json").read_text())["flags"]
    name = "wav2vec" if kind == "wav2vec" else "wav2vec2"
    entry = MODELS.get(_arch(recorded, name) if kind != "wav2vec_ctc" else name)
    parser = ArgumentParser(prog="test")
    parser.add_config(entry.config, name)
    options = to_plain(build_config(entry.config, {**entry.overrides, **parser.parse(flags)}, "recipe"))
    sections: dict[str, dict[str, Any]] = {"task": {"_name": "audio_pretraining", "data": "."}}
    with torch.device("meta"):
        if kind == "wav2vec_ctc":
            sections["model"] = {"_name": kind, "w2v_args": {"_name": name, **options}}
            sections["task"]["labels"] = "ltr"
            built: Any = Wav2VecCtc.build(build_config(MODELS.get(kind).config, sections["model"], ""), num_classes=32)
        else:
            sections["model"] = {"_name": name, **options}
            built = entry.cls.build(build_config(entry.config, options, ""))
    # Tensors of the full shape over one number each: nothing of that size is held or written.
    state = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in built.state_dict().items()}
    symbols = list(LETTERS) if kind == "wav2vec_ctc" else None
    file = ModelFile("recipe", "w2v", sections, state, symbols, "the test")
    write_fairseq(tmp_path / "x.pt", file)
    content: Any = torch.load(tmp_path / "x.pt", weights_only=True) if symbols is None else None
    model = content["model"] if content else state
    assert {key: tuple(tensor.shape) for key, tensor in model.items()} == wanted


def _shapes(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return shapes by name; a star stands for the number of a layer."""
    return {
        key.replace("*", str(layer)): shape
        for key, shape in recorded["tensors"].items()
        for layer in range(recorded["num_layers"] if "*" in key else 1)
    }


def _arch(recorded: dict[str, Any], name: str) -> str:
    flags = recorded["flags"]
    return flags[flags.index("--arch") + 1] if "--arch" in flags else name


def test_plain_encoders_have_no_place_there(tmp_path: Path) -> None:
    sections = {"task": {"_name": "audio_pretraining", "data": "."}, "model": {"_name": "wav2vec2_encoder"}}
    with pytest.raises(CheckpointError, match="no encoder without a head"):
        write_fairseq(tmp_path / "x.pt", ModelFile("x", "w2v", sections, {"mask_emb": torch.zeros(1)}))
    assert not (tmp_path / "x.pt").exists()


def test_half_precision_is_kept_in_files_and_read_as_float32(golden: Path, tmp_path: Path) -> None:
    content = read_torch_file(golden / "checkpoints/g1_args/w2v1.pt")
    half = {name: tensor.half() for name, tensor in content["model"].items()}
    save_checkpoint(tmp_path / "x.pt", {
        "config": read_model_file(golden / "checkpoints/g1_args/w2v1.pt").config, "model": half,
    })  # fmt: skip
    file = read_model_file(tmp_path / "x.pt")
    assert {tensor.dtype for tensor in file.state.values()} == {torch.float16}
    write_fairseq(tmp_path / "y.pt", file)
    assert all(torch.equal(tensor, half[name]) for name, tensor in read_model_file(tmp_path / "y.pt").state.items())
    assert {tensor.dtype for tensor in load_model(tmp_path / "y.pt").model.state_dict().values()} == {torch.float32}
    assert build_model(file).num_updates == 0
