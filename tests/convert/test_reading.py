"""What older files lack, what later ones add, and what is said about it."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.checkpoint.file import save_checkpoint
from w2v.checkpoint.torch_file import read_torch_file
from w2v.checkpoint.unpickle import plain_data
from w2v.config import build_config, to_plain
from w2v.convert import read_model_file
from w2v.convert.encoder_shape import infer_encoder
from w2v.data.dictionary import SPECIALS
from w2v.errors import CheckpointError, ConfigError
from w2v.inference.load import load_model
from w2v.models import MODELS
from w2v.models.wav2vec2 import Wav2Vec2Model
from w2v.models.wav2vec_ctc import Wav2VecCtc
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask


def write_args(path: Path, args: Mapping[str, Any], state: Mapping[str, Tensor], **more: Any) -> Path:
    """Write a file of the first generation, as the original did: with a pickled namespace."""
    content = {"args": argparse.Namespace(**args), "model": dict(state), "optimizer_history": [{"num_updates": 5}]}
    torch.save({**content, **more}, path)
    return path


def args_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = plain_data(read_torch_file(path)["args"])
    return found


def test_a_wav2vec_file_of_2019(golden: Path, tmp_path: Path) -> None:
    """Other names, a list of data folders, a single learning rate, and options that did not exist yet."""
    recorded = golden / "checkpoints/g1_args/w2v1.pt"
    args, state = args_of(recorded), read_torch_file(recorded)["model"]
    args |= {"task": "speech_pretraining", "arch": "audio_cpc", "criterion": "binary_cross_entropy"}
    args |= {"data": ["/x", "/y"], "lr": 0.005, "log_keys": None}
    missing = [
        name for name in args if name.startswith("vq_") or name in ("activation", "offset", "infonce", "gru_dim")
    ]
    for name in (*missing, "combine_groups", "normalize"):
        del args[name]
    path = write_args(tmp_path / "x.pt", args, state)
    file = read_model_file(path)
    notes = "\n".join(file.notes)
    for wanted in ("speech_pretraining", "audio_cpc", "binary_cross_entropy", "data folders", "vq_type", "offset"):
        assert wanted in notes
    assert file.config["task"]["data"] == "/x"
    source = torch.randn(1, 8000)
    with torch.inference_mode():
        features = load_model(path).model.extract_features(source, None).features
        assert torch.equal(features, load_model(recorded).model.extract_features(source, None).features)


def test_meters_of_2019_are_passed_over(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("fairseq.meters")
    meter = type("AverageMeter", (), {"__module__": "fairseq.meters"})
    module.AverageMeter = meter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.meters", module)
    recorded = golden / "checkpoints/g1_args/w2v1.pt"
    content = meter()
    content.val = 3  # type: ignore[attr-defined]
    path = write_args(
        tmp_path / "x.pt", args_of(recorded), read_torch_file(recorded)["model"],
        extra_state={"train_meters": {"loss": content}},
    )  # fmt: skip
    monkeypatch.undo()
    assert read_model_file(path).num_updates == 5


def test_variants_that_compute_something_else_are_refused(golden: Path, tmp_path: Path) -> None:
    recorded = golden / "checkpoints/g1_args/w2v2_base.pt"
    args, state = args_of(recorded), read_torch_file(recorded)["model"]
    for name, value in (("layer_type", "conformer"), ("conv_pos_batch_norm", True)):
        with pytest.raises(CheckpointError, match=name):
            read_model_file(write_args(tmp_path / "x.pt", {**args, name: value}, state))
    with pytest.raises(CheckpointError, match="holds a model 'wavlm'"):
        read_model_file(write_args(tmp_path / "x.pt", {**args, "arch": "wavlm"}, state))


def test_tensors_that_do_not_fit_are_named(golden: Path, tmp_path: Path) -> None:
    recorded = golden / "checkpoints/g1_args/w2v2_base.pt"
    args, state = args_of(recorded), read_torch_file(recorded)["model"]
    wrong = dict(state)
    wrong["odd"] = wrong.pop("layer_norm.weight")
    wrong["mask_emb"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as e:
        load_model(write_args(tmp_path / "x.pt", args, wrong))
    for part in ("missing layer_norm.weight", "unknown odd", "mask_emb has shape (3,)"):
        assert part in str(e.value)


def test_the_averaged_copy_is_left_out(golden: Path, tmp_path: Path) -> None:
    recorded = golden / "checkpoints/g1_args/w2v1.pt"
    state = read_torch_file(recorded)["model"]
    file = read_model_file(write_args(tmp_path / "x.pt", args_of(recorded), {**state, "_ema": {"a": torch.zeros(1)}}))
    assert list(file.state) == list(state)
    assert any("_ema" in note for note in file.notes)


# ---------------------------------------------------------------------------------------- fine-tuned files


def test_where_the_encoders_options_come_from(golden: Path, tmp_path: Path) -> None:
    folder = golden / "checkpoints/g1_args"
    inside = read_model_file(folder / "ctc_base_w2vargs.pt")
    assert not any("encoder's options" in note for note in inside.notes)
    beside = read_model_file(folder / "ctc_base.pt")
    assert f"the encoder's options were read from {folder / 'w2v2_base.pt'}" in beside.notes
    shutil.copy(folder / "ctc_base.pt", tmp_path / "alone.pt")
    with pytest.raises(CheckpointError, match="attention heads") as e:
        load_model(tmp_path / "alone.pt")
    assert "--w2v-path" in str(e.value)
    named = load_model(tmp_path / "alone.pt", overrides={"w2v_path": str(folder / "w2v2_base.pt")})
    source = torch.randn(1, 8000)
    with torch.inference_mode():
        wanted = load_model(folder / "ctc_base_w2vargs.pt").model(source, None, 0).logits
        assert torch.equal(named.model(source, None, 0).logits, wanted)
        assert torch.equal(load_model(folder / "ctc_base.pt").model(source, None, 0).logits, wanted)


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_published_sizes_are_told_from_shapes(mode: str) -> None:
    options: dict[str, Any] = {"extractor_mode": mode, "encoder_layers": 3}
    options["conv_feature_layers"] = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
    if mode == "layer_norm":
        options |= {"encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16}
        options |= {"layer_norm_first": True, "conv_bias": True}
    config: Any = build_config(MODELS.get("wav2vec2").config, options, "test")
    with torch.device("meta"):
        state = Wav2Vec2Model(config).state_dict()
    found, problem = infer_encoder({f"x.{name}": tensor for name, tensor in state.items()}, "x.")
    assert found is not None
    assert problem == ""
    rebuilt = to_plain(build_config(MODELS.get("wav2vec2").config, found, "test"))
    for name in found.keys() - {"_name"}:
        assert rebuilt[name] == to_plain(config)[name], name


def test_where_labels_come_from(golden: Path, tmp_path: Path) -> None:
    recorded = golden / "checkpoints/g1_args/ctc_base_w2vargs.pt"
    path = tmp_path / "x.pt"
    shutil.copy(recorded, path)
    letters = read_model_file(path).symbols
    assert letters is not None
    assert "standard letter dictionary" in read_model_file(path).symbols_from
    reversed_letters = letters[:3:-1]
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in reversed_letters))
    file = read_model_file(path)
    assert file.symbols == [*SPECIALS, *reversed_letters]
    assert file.symbols_from == str(tmp_path / "dict.ltr.txt")
    given = tmp_path / "other.txt"
    given.write_text("".join(f"{symbol.lower()} 1\n" for symbol in letters[4:]))
    file = read_model_file(path, dictionary=str(given))
    assert file.symbols == [*SPECIALS, *(symbol.lower() for symbol in letters[4:])]
    given.write_text("a 1\nb 1\n")
    with pytest.raises(CheckpointError, match="holds 6 symbols"):
        read_model_file(path, dictionary=str(given))
    # The dictionary inside wins over the one beside.
    inside = golden / "checkpoints/g3_cfg/ctc_base.pt"
    shutil.copy(inside, path)
    assert (read_model_file(path).symbols, read_model_file(path).symbols_from) == (letters, "the checkpoint")


def test_no_labels_to_be_found(golden: Path, tmp_path: Path) -> None:
    recorded = golden / "checkpoints/g1_args/ctc_base_w2vargs.pt"
    args, state = args_of(recorded), dict(read_torch_file(recorded)["model"])
    args["w2v_args"] = argparse.Namespace(**args["w2v_args"])
    for name in ("w2v_encoder.proj.weight", "w2v_encoder.proj.bias"):
        state[name] = state[name][:20].clone()
    with pytest.raises(CheckpointError, match="name the file with --dict"):
        read_model_file(write_args(tmp_path / "x.pt", args, state))


def test_wrong_weight_of_pretraining_heads_is_dropped(golden: Path, tmp_path: Path) -> None:
    recorded = golden / "checkpoints/g1_args/ctc_base_w2vargs.pt"
    args, state = args_of(recorded), dict(read_torch_file(recorded)["model"])
    args["w2v_args"] = argparse.Namespace(**args["w2v_args"])
    state["w2v_encoder.w2v_model.final_proj.weight"] = torch.zeros(2, 2)
    load_model(write_args(tmp_path / "x.pt", args, state))


# ---------------------------------------------------------------------------------------- fine-tuning


def tune(path: Path, folder: Path, **options: Any) -> Wav2VecCtc:
    """Build the model that fine-tuning would start from."""
    (folder / "dict.ltr.txt").write_text("| 5\nA 3\n")
    task = AudioPretrainingTask(AudioPretrainingConfig(data=str(folder), labels="ltr", **options))
    entry = MODELS.get("wav2vec_ctc")
    model = task.build_model(entry, build_config(entry.config, {"w2v_path": str(path)}, "test"))
    assert isinstance(model, Wav2VecCtc)
    return model


@pytest.mark.parametrize("form", ["fairseq", "huggingface", "bare encoder", "safetensors"])
@pytest.mark.parametrize("name", ["w2v2_base", "w2v2_large"])
def test_fine_tuning_starts_from_any_kind(golden: Path, tmp_path: Path, name: str, form: str) -> None:
    from w2v.convert.huggingface_folder import write_huggingface
    from w2v.convert.safetensors_file import write_safetensors_model

    recorded = golden / "checkpoints/g2_dictconfig" / f"{name}.pt"
    file, path = read_model_file(recorded), recorded
    if form == "huggingface":
        path = tmp_path / "folder"
        write_huggingface(path, file, as_bin=True)
    elif form == "bare encoder":
        path = tmp_path / "encoder.pt"
        heads = ("quantizer.", "project_q.", "final_proj.")
        names = set(MODELS.get("wav2vec2_encoder").config.__dataclass_fields__)
        model = {key: value for key, value in file.config["model"].items() if key in names}
        config = {**file.config, "model": {**model, "_name": "wav2vec2_encoder"}}
        state = {key: tensor for key, tensor in file.state.items() if not key.startswith(heads)}
        save_checkpoint(path, {"config": config, "model": state})
    elif form == "safetensors":
        pytest.importorskip("safetensors")
        path = tmp_path / "x.safetensors"
        write_safetensors_model(path, file)
    model = tune(path, tmp_path, normalize=file.normalize)
    with torch.inference_mode():
        source = torch.randn(1, 8000)
        wanted = load_model(recorded).model.extract_features(source, None).features
        torch.testing.assert_close(model.eval().extract_features(source, None).features, wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(ConfigError, match="pretrained with"):
        tune(path, tmp_path, normalize=not file.normalize)
    assert model.w2v_encoder.proj.weight.shape[0] == 6
    loss = model.train()(torch.randn(2, 8000), None, 1).logits.sum()
    loss.backward()  # mapped weights can be trained
