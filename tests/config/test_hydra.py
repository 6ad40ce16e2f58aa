"""Command lines of the original's Hydra releases: taken over, or refused with the spelling that works."""

from __future__ import annotations

import pytest

from w2v.config.hydra import split_hydra
from w2v.errors import ConfigError

SECTIONS = ("common", "task", "model", "optimization", "distributed_training")


def test_the_published_command():
    # README of 2021: fairseq-hydra-train distributed_training.distributed_port=$PORT task.data=... --config-dir ...
    words = [
        "distributed_training.distributed_port=1234", "task.data=/path/to/data", "model.w2v_path=/path/to/model.pt",
        "+optimization.update_freq=[4]", "common.fp16=false", "optimization.lr=[0.0005]", "--seed", "3",
        "--config-dir", "/configs/finetuning", "--config-name", "base_100h",
    ]  # fmt: skip
    found = split_hydra(words, SECTIONS)
    assert found.argv == ["--seed", "3"]
    assert found.config == "/configs/finetuning/base_100h.yaml"
    assert found.options == {
        "distributed_training": {"distributed_port": 1234},
        "task": {"data": "/path/to/data"},
        "model": {"w2v_path": "/path/to/model.pt"},
        "optimization": {"update_freq": [4], "lr": [0.0005]},
        "common": {"fp16": False},
    }


def test_a_component_is_chosen_by_its_section():
    assert split_hydra(["task=audio_finetuning"], SECTIONS).options == {"task": {"_name": "audio_finetuning"}}


def test_other_spellings_of_the_file():
    assert split_hydra(["-cd", "a", "-cn", "b.yaml"], SECTIONS).config == "a/b.yaml"
    assert split_hydra(["--config-path=a", "--config-name=b"], SECTIONS).config == "a/b.yaml"
    assert split_hydra(["--config-name", "b"], SECTIONS).config == "b.yaml"


def test_ordinary_arguments_are_left_alone():
    words = ["/data/a=b", "name=x", "--lr=0.1", "--wer-args", '("a=b",None,1,2)', "--config", "x.yaml"]
    found = split_hydra(words, SECTIONS)
    assert (found.argv, found.config, found.options) == (words, None, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--multirun"], "start w2v-train once for each setting"),
        (["hydra.run.dir=x"], "Hydra and its launchers are not used here"),
        (["hydra/launcher=submitit_slurm"], "Hydra and its launchers are not used here"),
        (["+run_config=slurm_2"], "leave it out"),
        (["~task.data=x"], "only section.name=value is read"),
        (["model.w2v_args.dropout=1"], "only section.name=value is read"),
        (["optimisation.lr=1"], "no section 'optimisation'; sections are common"),
        (["optimization.lr=[1"], "is no value in YAML"),
        (["--config-dir", "x"], "needs --config-name"),
        (["--config-name"], "--config-name needs a value"),
    ],
)
def test_what_has_no_counterpart(words, message):
    with pytest.raises(ConfigError, match=message):
        split_hydra(words, SECTIONS)
