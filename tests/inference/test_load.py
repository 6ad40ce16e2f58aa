"""From a checkpoint to a model: all that was trained comes back; what does not fit is named."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_speech import call, finetuning, prepare, pretraining

from w2v.checkpoint.file import load_checkpoint, save_checkpoint
from w2v.config import to_plain
from w2v.errors import CheckpointError, ConfigError, W2vError
from w2v.inference.load import load_model, load_tensors
from w2v.models.wav2vec2 import Wav2Vec2Model
from w2v.models.wav2vec_ctc import Wav2VecCtc
from w2v_cli import train

pytest.importorskip("soundfile")

SHORT = ["--max-update", 2, "--max-tokens", 60000, "--disable-validation"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with checkpoints `pretrained.pt` and `finetuned.pt`, and nothing that they were made from."""
    folder = tmp_path_factory.mktemp("trained")
    data = prepare(folder / "corpus", 20)
    last = folder / "run/checkpoint_last.pt"
    outcome = call(train.main, pretraining(data, folder / "run", *SHORT, "--seed", 4))
    assert outcome.code == 0, outcome.err
    last.rename(folder / "pretrained.pt")
    outcome = call(train.main, finetuning(data, folder / "run", folder / "pretrained.pt", *SHORT, "--mask-length", 3))
    assert outcome.code == 0, outcome.err
    last.rename(folder / "finetuned.pt")
    shutil.rmtree(folder / "corpus")
    return folder


def damaged(trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write `finetuned.pt` with a change to its content."""
    state = load_checkpoint(trained / "finetuned.pt")
    change(state)
    save_checkpoint(tmp_path / "damaged.pt", state)
    return tmp_path / "damaged.pt"


@pytest.mark.parametrize("name", ["pretrained", "finetuned"])
def test_round_trip(name: str, trained: Path) -> None:
    state = load_checkpoint(trained / f"{name}.pt")
    loaded = load_model(trained / f"{name}.pt")
    assert isinstance(loaded.model, Wav2Vec2Model if name == "pretrained" else Wav2VecCtc)
    assert not loaded.model.training
    assert loaded.num_updates == 2
    tensors = loaded.model.state_dict()
    assert tensors.keys() == state["model"].keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in state["model"].items())
    assert not any(tensor.is_meta for tensor in (*loaded.model.parameters(), *loaded.model.buffers()))
    assert {"_name": state["config"]["model"]["_name"], **to_plain(loaded.model.config)} == state["config"]["model"]


def test_a_loaded_model_gives_what_the_trained_one_gave(trained: Path) -> None:
    """Oracle: the model built by hand from the tensors of the file."""
    state = load_checkpoint(trained / "finetuned.pt")
    loaded = load_model(trained / "finetuned.pt")
    by_hand = Wav2VecCtc.build(loaded.model.config, num_classes=len(state["task"]["dictionary"]))
    by_hand.load_state_dict(state["model"])
    by_hand.eval().set_num_updates(2)
    source, lengths = torch.randn(2, 9000), torch.tensor([9000, 6000])
    with torch.no_grad():
        assert torch.equal(loaded.model(source, lengths, 1).logits, by_hand(source, lengths, 1).logits)


def test_the_dictionary_comes_along(trained: Path) -> None:
    task: Any = load_model(trained / "finetuned.pt").task
    assert task.dictionary.symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert set(task.dictionary.symbols[4:]) == {"|", *"ABCDE"}
    assert task.config.labels == "ltr"


def test_the_encoder_keeps_its_own_options(trained: Path) -> None:
    plain = load_checkpoint(trained / "finetuned.pt")["config"]["model"]
    assert plain["w2v_args"]["encoder_embed_dim"] == 48
    assert plain["w2v_args"]["mask_length"] == 4
    assert plain["mask_length"] == 3


def test_a_model_can_be_trained_on(trained: Path) -> None:
    model = load_model(trained / "finetuned.pt").model.train()
    model(torch.randn(2, 9000), None, 1).logits.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) > 10
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


# -------------------------------------------------------------------------------------------- overrides


def test_overrides_change_options_of_model_and_task(trained: Path) -> None:
    loaded = load_model(trained / "finetuned.pt", overrides={"final_dropout": 0.3, "sample_rate": 8000})
    config: Any = loaded.model.config
    assert config.final_dropout == 0.3
    assert loaded.task.config.sample_rate == 8000
    assert loaded.config["task"]["sample_rate"] == 8000


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"final_droput": 0.3}, "neither model nor task has an option 'final_droput'"),
        ({"final_dropout": "much"}, "--final-dropout: must be a number, got 'much'"),
        ({"mask_prob": 7}, "--mask-prob must lie in [0, 1], got 7"),
        ({"lr": 1.0}, "neither model nor task has an option 'lr'"),
    ],
)
def test_bad_overrides(overrides: dict[str, Any], words: str, trained: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(trained / "finetuned.pt", overrides=overrides)
    assert words in str(caught.value)


# ----------------------------------------------------------------------------------------------- faults


def rename(state: dict[str, Any]) -> None:
    state["model"]["w2v_encoder.proj.wieght"] = state["model"].pop("w2v_encoder.proj.weight")


def reshape(state: dict[str, Any]) -> None:
    state["model"]["w2v_encoder.proj.bias"] = torch.zeros(77)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, ["missing w2v_encoder.proj.weight", "unknown w2v_encoder.proj.wieght"]),
        (reshape, ["w2v_encoder.proj.bias has shape (77,), wanted (10,)"]),
        (lambda state: state["model"].clear(), ["holds no tensors of a model"]),
        (lambda state: state["task"]["dictionary"].append("Z"), ["proj.weight has shape (10, 48), wanted (11, 48)"]),
        (lambda state: state["config"]["model"].update(_name="wav2vec9"), ["--arch: unknown model 'wav2vec9'"]),
        (lambda state: state["config"]["model"].update(widht=3), ["unknown option 'widht'"]),
        (lambda state: state["config"]["model"].pop("_name"), ["_name"]),
        (lambda state: state["config"].pop("task"), ["task"]),
        (lambda state: state.pop("model"), ["model"]),
        (lambda state: state.pop("config"), ["config"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_named(
    change: Callable[[dict[str, Any]], object], words: list[str], trained: Path, tmp_path: Path
) -> None:
    path = damaged(trained, tmp_path, change)
    with pytest.raises(W2vError) as caught:
        load_model(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_five_names_are_listed() -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(5)])
    with pytest.raises(CheckpointError) as caught:
        load_tensors(model, {}, "somewhere")
    assert str(caught.value).count("missing") == 5
    assert str(caught.value).endswith(" and 5 more")


def test_loading_all_tensors() -> None:
    model = torch.nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    load_tensors(model, state, "somewhere")
    assert torch.equal(model.weight, state["weight"])


def test_configs_of_models_are_frozen(trained: Path) -> None:
    config: Any = load_model(trained / "pretrained.pt").model.config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dropout = 0.5
