"""`w2v-convert --training-state`: a run of the original is resumed with its own moments and number of updates."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_speech import call, prepare

from w2v.checkpoint.torch_file import read_torch_file
from w2v.convert import read_model_file
from w2v.convert.fairseq_training import training_state
from w2v.convert.model_file import ModelFile
from w2v.errors import CheckpointError
from w2v.inference.load import build_model
from w2v_cli import convert, train

FILES = [
    *(
        f"checkpoints/{generation}/{model}"
        for generation in ("g1_args", "g2_dictconfig", "g3_cfg")
        for model in ("w2v1", "vq_gumbel", "vq_kmeans", "w2v2_base", "w2v2_large", "ctc_base", "ctc_large")
    ),
    *(f"beyond/checkpoints/{generation}/roberta_codes" for generation in ("g1_args", "g2_dictconfig", "g3_cfg")),
]
PRETRAINING = [
    *("--criterion", "wav2vec", "--infonce", "--max-tokens", "64000", "--max-sample-size", "16000"),
    *("--num-workers", "0", "--cpu", "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6"),
    *("--lr", "1e-3", "--no-epoch-checkpoints", "--disable-validation"),
]


def opened(golden: Path, name: str) -> tuple[ModelFile, dict[str, torch.Size]]:
    file = read_model_file(golden / f"{name}.pt")
    return file, {name: parameter.shape for name, parameter in build_model(file).model.named_parameters()}


@pytest.mark.parametrize("name", FILES)
def test_every_moment_lies_at_the_parameter_that_it_was_counted_for(golden: Any, name: str) -> None:
    file, shapes = opened(golden, name)
    training = training_state(file, shapes)
    saved: Any = read_torch_file(golden / f"{name}.pt")
    theirs, ours = saved["last_optimizer_state"]["state"], training["optimizer"]["state"]
    assert len(ours) == len(theirs)
    sums = [sorted(float(entry["exp_avg"].double().sum()) for entry in state.values()) for state in (theirs, ours)]
    assert sums[0] == sums[1]
    moments = {list(shapes)[number]: entry for number, entry in ours.items()}
    for parameter, entry in moments.items():
        assert entry["exp_avg"].shape == entry["exp_avg_sq"].shape == shapes[parameter]
        frozen = file.config["model"].get("freeze_finetune_updates", 0)
        assert entry["step"] == file.num_updates - (frozen if ".w2v_model." in parameter else 0)
    # Softmax does not see what is added to all keys: the gradient of this bias is nothing but rounding. Of nine
    # tensors of each block that have the same shape, this tells one from the others.
    keys = [parameter for parameter in moments if parameter.endswith("k_proj.bias")]
    for parameter in keys:
        others = [moments[parameter.replace("k_proj", other)]["exp_avg_sq"].mean() for other in ("q_proj", "v_proj")]
        assert moments[parameter]["exp_avg_sq"].mean() < 1e-6 * min(others)
    is_frozen = len(theirs) < len(shapes)
    assert keys or "w2v2" not in name
    assert not (is_frozen and any("feature_extractor" in parameter for parameter in moments))


def test_the_row_of_fp16_is_cut_into_parameters(golden: Any, tmp_path: Path) -> None:
    """As the original's `FP16Optimizer` keeps its state: one tensor of all parameters, and the loss scale."""
    name = "checkpoints/g2_dictconfig/w2v2_base"
    file, shapes = opened(golden, name)
    wanted = training_state(file, shapes)["optimizer"]["state"]
    content: Any = read_torch_file(golden / f"{name}.pt")
    saved = content["last_optimizer_state"]
    row = {
        moment: torch.cat([saved["state"][number][moment].reshape(-1) for number in range(len(saved["state"]))])
        for moment in ("exp_avg", "exp_avg_sq")
    }
    content["last_optimizer_state"] = {
        "state": {0: {"step": 8, **row}},
        "param_groups": [{**saved["param_groups"][0], "params": [0]}],
        "loss_scale": 64.0,
    }
    content["cfg"] = {"optimizer": {"_name": "adam"}}
    torch.save(content, tmp_path / "fp16.pt")
    found = training_state(ModelFile(str(tmp_path / "fp16.pt"), "", file.config, file.state), shapes)
    assert found["scaler"]["scale"] == 64.0
    assert found["optimizer"]["state"].keys() == wanted.keys()
    for number, entry in wanted.items():
        assert all(torch.equal(entry[moment], found["optimizer"]["state"][number][moment]) for moment in row)


def test_a_run_of_the_original_is_resumed(golden: Any, tmp_path: Path) -> None:
    speech = prepare(tmp_path / "speech", 8, num_words=(4, 6))
    source, ours = golden / "checkpoints/g3_cfg/w2v2_base.pt", tmp_path / "ours.pt"
    converted = call(convert.main, [source, ours, "--to", "w2v", "--training-state"])
    assert converted.code == 0, converted.err
    model = read_model_file(source).config["model"]
    flags = ["--restore-file", ours, "--save-dir", tmp_path / "run", "--max-update", "9"]
    run = call(train.main, [speech, *PRETRAINING, *flags])
    assert run.code == 0, run.err
    assert re.search(r"loaded checkpoint .*ours\.pt \(epoch 1 @ 8 updates\)", run.out + run.err)
    saved: Any = read_torch_file(tmp_path / "run" / "checkpoint_last.pt")
    before: Any = read_torch_file(ours)
    assert saved["trainer"]["num_updates"] == 9
    assert saved["config"]["model"]["encoder_embed_dim"] == model["encoder_embed_dim"]
    mean = {number: entry["exp_avg"] for number, entry in before["optimizer"]["state"].items()}
    first, second = saved["config"]["optimizer"]["adam_betas"]
    names = list(saved["model"])
    for number, entry in saved["optimizer"]["state"].items():
        assert entry["step"] == 9
        # From both means follows the gradient; from it the square, and from all the step.
        gradient = (entry["exp_avg"] - first * mean[number]) / (1 - first)
        square = second * before["optimizer"]["state"][number]["exp_avg_sq"] + (1 - second) * gradient**2
        torch.testing.assert_close(entry["exp_avg_sq"], square, rtol=1e-3, atol=1e-12)
        correction = math.sqrt(1 - second**9) / (1 - first**9)
        eps = saved["config"]["optimizer"]["adam_eps"]
        rate = 1e-3 * correction
        wanted = before["model"][names[number]] - rate * entry["exp_avg"] / (entry["exp_avg_sq"].sqrt() + eps)
        torch.testing.assert_close(saved["model"][names[number]], wanted, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_resumed_is_said(golden: Any, tmp_path: Path) -> None:
    source = golden / "checkpoints/g1_args/w2v1.pt"
    other = call(convert.main, [source, tmp_path / "x.pt", "--to", "fairseq", "--training-state"])
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "--training-state is for --to w2v" in other.err
    none = golden / "beyond/checkpoints/g1_args/roberta_codes_2019names.pt"
    empty = call(convert.main, [none, tmp_path / "x.pt", "--to", "w2v", "--training-state"])
    assert (empty.code, empty.err.count("\n")) == (2, 1)
    assert "holds no state of an optimizer of fairseq; leave out --training-state" in empty.err
    assert not (tmp_path / "x.pt").exists()
    file, shapes = opened(golden, "checkpoints/g1_args/w2v1")
    del shapes["feature_extractor.conv_layers.0.0.weight"]
    with pytest.raises(CheckpointError, match="its optimizer has 40 parameters, its model 39"):
        training_state(file, shapes)
