"""Full dumps of runs of the original, as Hydra and its checkpoints hold them: every key is read, named, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_speech import call, prepare

from w2v.checkpoint.file import load_checkpoint
from w2v.checkpoint.torch_file import read_torch_file
from w2v.checkpoint.unpickle import plain_data
from w2v.config.original_keys import FOLLOWING, UNREAD_SECTIONS
from w2v.errors import ConfigError
from w2v.training.options import ParsedCommand, parse_train_command
from w2v_cli import train

DUMP = Path(__file__).parents[1] / "assets/dumps/pretraining.yaml"
SECTIONS = ("common", "dataset", "distributed_training", "optimization", "checkpoint", "task", "model", "criterion",
            "optimizer", "lr_scheduler")  # fmt: skip

WRITTEN_OTHERWISE = {
    "conv_feature_layers", "conv_aggregator_layers", "adam_betas", "total_num_update", "labels",  # literals and lists
    "heartbeat_timeout", "w2v_args",  # as if not given
}  # fmt: skip


def read(path: Path, *argv: Any) -> ParsedCommand:
    return parse_train_command(["--config", str(path), *map(str, argv)])


def dump() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(DUMP.read_text())
    return content


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return path


def lost(content: Mapping[str, Any], found: ParsedCommand) -> list[str]:
    """Return the keys that are neither in the configuration with the dump's value nor said to be left out."""
    plain, names = found.config.to_plain(), []
    for section, values in content.items():
        if section not in SECTIONS:
            names += [] if section in {"_name", *found.left_out} else [section]
            continue
        for name in values:
            is_known = name in {"_name", *plain[section]} or f"{section}.{name}" in found.left_out
            is_moved = (section, name) in (("optimization", "sentence_avg"), ("lr_scheduler", "min_lr"))
            names += [] if is_known or is_moved else [f"{section}.{name}"]
    return names


def test_a_dump_means_what_its_own_keys_mean(tmp_path: Path) -> None:
    """Reference: the same file with nothing but the keys that w2v has, and references written out."""
    found = read(DUMP, "DATA")
    content = dump()
    assert lost(content, found) == []
    plain = found.config.to_plain()
    short = {s: {k: v for k, v in content[s].items() if k == "_name" or k in plain[s]} for s in SECTIONS}
    short["task"]["data"] = "DATA"
    del short["distributed_training"]["heartbeat_timeout"]
    for section, name in FOLLOWING:
        del short[section][name]
    with_short = read(write(tmp_path, short))
    assert with_short.left_out == ()
    assert plain == with_short.config.to_plain()
    # What was set to something, seen on its own.
    assert (plain["common"]["seed"], plain["model"]["latent_temp"]) == (5, [2.0, 0.5, 0.999995])


def test_one_line_names_what_is_left_out() -> None:
    (line,) = read(DUMP, "DATA").notes()
    content = dump()
    for section in {*content} & {*UNREAD_SECTIONS}:
        assert section in line
    for words in ("common: ", "azureml_logging", "aim_repo", "log_file", "slowmo_base_algorithm", "plasma_path"):
        assert words in line
    for words in ("tensorboard_logdir", "wandb_project", "max_update"):  # these are read
        assert words not in line


def test_values_follow_what_is_typed() -> None:
    config = read(DUMP, "DATA", "--max-tokens", 80000, "--max-update", 9, "optimization.lr=[0.1]").config
    assert (config.dataset.max_tokens_valid, config.dataset.max_tokens) == (None, 80000)
    assert config.lr_scheduler.config.total_num_update is None
    assert config.optimization.lr == (0.1,)


def test_a_dump_trains(tmp_path: Path) -> None:
    data = prepare(tmp_path / "speech", 12, num_words=(4, 6), valid_percent=0.2)
    outcome = call(train.main, ["--config", DUMP, f"task.data={data}", "--save-dir", tmp_path / "run"])
    assert outcome.code == 0, outcome.err
    assert load_checkpoint(tmp_path / "run/checkpoint_last.pt")["trainer"]["num_updates"] == 2
    assert (outcome.out + outcome.err).count("as it changes nothing here") == 1


SET = {
    ("common", "azureml_logging"): True, ("common", "aim_repo"): "/runs", ("common", "amp"): True,
    ("common", "log_file"): "log.txt", ("common", "model_parallel_size"): 2, ("dataset", "max_valid_steps"): 10,
    ("dataset", "combine_valid_subsets"): True, ("distributed_training", "zero_sharding"): "os",
    ("distributed_training", "ddp_comm_hook"): "fp16", ("distributed_training", "cpu_offload"): True,
    ("optimization", "use_bmuf"): True, ("optimization", "max_updates"): 5, ("checkpoint", "checkpoint_suffix"): "-a",
    ("checkpoint", "optimizer_overrides"): "{'lr': 1}", ("model", "layer_type"): "conformer",
    ("model", "crop_seq_to_multiple"): 2, ("model", "mask_dropout"): 0.1, ("task", "binarized_dataset"): True,
    ("task", "subsample"): 0.5, ("optimizer", "fp16_adam_stats"): True, ("model", "encoder_layers"): "many",
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, len(SET)])
def test_all_that_cannot_be_honoured_is_named_at_once(tmp_path: Path, count: int) -> None:
    content = dump()
    chosen = dict(list(SET.items())[:count])
    for (section, name), value in chosen.items():
        content[section][name] = value
    with pytest.raises(ConfigError) as found:
        read(write(tmp_path, content), "DATA")
    for section, name in chosen:
        assert name in str(found.value), name
        assert count < 3 or f"{section}.{name}" in str(found.value)
    assert str(found.value).count(f"{tmp_path}/config.yaml:") == (count if count < 3 else 1)


@pytest.mark.parametrize(("section", "name"), list(SET))
def test_each_of_them_alone(tmp_path: Path, section: str, name: str) -> None:
    content = {"model": {"_name": "wav2vec2"}, "criterion": {"_name": "wav2vec"}}
    content.setdefault(section, {})[name] = SET[section, name]
    with pytest.raises(ConfigError, match=rf"config\.yaml:\d+: .*{name.replace('_', '[_-]')}"):
        read(write(tmp_path, content), "DATA")


def test_copies_of_an_option(tmp_path: Path) -> None:
    """The original repeats options where another part needs them; here the first place counts."""
    content = dump()
    content["optimizer"]["lr"], content["lr_scheduler"]["lr"] = [0.0005], 0.0005
    content["task"]["seed"] = 5
    assert read(write(tmp_path, content), "DATA").config.to_plain() == read(DUMP, "DATA").config.to_plain()
    content["optimizer"]["lr"], content["task"]["seed"] = [0.1], 7
    message = r"optimizer\.lr is \[0\.1\], but optimization\.lr.* is \[0\.0005\]; .*task\.seed is 7, but common\.seed"
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path, content), "DATA")


def test_references(tmp_path: Path) -> None:
    content = dump()
    content["dataset"] |= {"train_subset": "${dataset.valid_subset}", "valid_subset": "${task.labels}",
                           "batch_size": "${task.max_sample_size}"}  # fmt: skip
    content["task"]["labels"] = "x"
    config = read(write(tmp_path, content), "DATA").config
    assert (config.dataset.train_subset, config.dataset.valid_subset, config.dataset.batch_size) == ("x", "x", 16000)
    content["dataset"]["valid_subset"] = "${dataset.train_subset}"  # a circle
    with pytest.raises(ConfigError, match=r"config\.yaml:\d+: .*is no option of this file"):
        read(write(tmp_path, content), "DATA")


@pytest.mark.parametrize("defaults", [["_self_"], ["_self_", {"model": None}], [{"run_config": "slurm_1"}]])
def test_defaults_that_join_nothing(tmp_path: Path, defaults: list[Any]) -> None:
    found = read(write(tmp_path, dump() | {"defaults": defaults}), "DATA")
    assert "defaults" in found.left_out


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("ema", {"store_ema": True}, "ema.store_ema: averages of weights are not kept"),
        ("defaults", [{"model": "wav2vec2"}], "defaults: .*write their sections into this file"),
        ("optimisation", {}, "unknown section 'optimisation'; known: common"),
    ],
)
def test_sections_that_matter(tmp_path: Path, section: str, values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml:\d+: {message}"):
        read(write(tmp_path, dump() | {section: values}), "DATA")


def test_one_file_of_options() -> None:
    with pytest.raises(ConfigError, match=r"--config .* and --config-name exclude each other"):
        read(DUMP, "DATA", "--config-name", "other")


SMALL = {"task": {"_name": "audio_pretraining", "data": "D"}, "model": {"_name": "wav2vec2"},
         "criterion": {"_name": "wav2vec"}}  # fmt: skip


def parsed(folder: Path, text: str) -> Any:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(SMALL) + text)
    return read(path).config


def test_numbers_as_hydra_takes_them(tmp_path: Path) -> None:
    """YAML itself takes numbers with an exponent and no point for text."""
    text = "optimization: {max_update: 4e5, lr: [1e-5, .5, 2E-4], update_freq: [4], clip_norm: 1e-1}\n"
    text += "dataset: {max_tokens: 1.4e6}\n"
    config = parsed(tmp_path, text)
    assert config.optimization.lr == (1e-5, 0.5, 2e-4)
    assert (config.optimization.max_update, config.optimization.clip_norm) == (400_000, 0.1)
    assert (config.optimization.update_freq, config.dataset.max_tokens) == ((4,), 1_400_000)
    for value in ("15e-1", "1.25e1", "1e99", "1e"):
        with pytest.raises(ConfigError, match=r"config\.yaml:\d+: --max-update: must be a whole number"):
            parsed(tmp_path, f"optimization: {{max_update: {value}}}\n")
    for value in ("1e-5x", "e5", "1e-5-1"):
        with pytest.raises(ConfigError, match=r"config\.yaml:\d+: --lr: must be a number or a list of numbers"):
            parsed(tmp_path, f"optimization: {{lr: [{value}]}}\n")


def test_names_with_dashes_are_the_same_options(tmp_path: Path) -> None:
    config = parsed(tmp_path, "checkpoint: {save-dir: q, keep_last-epochs: 3}\n")
    assert (config.checkpoint.save_dir, config.checkpoint.keep_last_epochs) == ("q", 3)
    with pytest.raises(ConfigError, match=r"config\.yaml:\d+: 'save_dir' is given twice, with dashes"):
        parsed(tmp_path, "checkpoint: {save-dir: q, save_dir: r}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: {max_sentences: 3}", "unknown option 'max_sentences'; did you mean 'batch_size'"),
        ("optimizer: adam", "section 'optimizer' must hold options, got 'adam'; .*: {_name: adam}"),
    ],
)
def test_hints(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml:\d+: .*{message}"):
        parsed(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("task: audio_pretraining\ncriterion: wav2vec\narch: wav2vec2\nlr: [0.0005]\n", 3),
        ("!!python/object:argparse.Namespace\narch: wav2vec2\nlr: [0.0005]\n", 1),
        ("task: {_name: audio_pretraining}\nlr: 0.0005\n", 2),
        ("args:\n  arch: wav2vec2\n", 1),
        ('{"arch": "wav2vec2", "lr": [0.0005]}', 1),
    ],
)
def test_options_on_one_level(tmp_path: Path, text: str, line: int) -> None:
    """As `vars(args)` of the original has them: one line that says which form is expected."""
    (tmp_path / "flat.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"flat\.yaml:{line}: .* below their section, as in .*--print-config"):
        read(tmp_path / "flat.yaml", "DATA")


def test_overrides_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_text("- task.data=/data\n- model=wav2vec2\n")
    with pytest.raises(ConfigError, match="overrides of Hydra stand on the command line"):
        read(tmp_path / "overrides.yaml")


def test_every_unknown_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown sections 'lm', 'nosuch'; known"):
        read(write(tmp_path, dump() | {"lm": {}, "nosuch": {}}), "DATA")


def test_checkpoints_of_the_original(golden: Any, tmp_path: Path) -> None:
    """Each `cfg` that the original wrote is a file of options for the same run."""
    paths = [*(golden / "checkpoints/g3_cfg").glob("*.pt"), golden / "beyond/checkpoints/hubert/hubert.pt"]
    read_ones = 0
    for path in paths:
        if path.name.endswith(".io.pt"):
            continue
        content = plain_data(read_torch_file(path)["cfg"])
        found = read(write(tmp_path, content))
        assert lost(content, found) == [], path
        plain = found.config.to_plain()
        for section in {*SECTIONS} & content.keys():
            names = plain[section].keys() & content[section].keys()
            assert {n for n in names if str(content[section][n]) != str(plain[section][n])} <= WRITTEN_OTHERWISE, path
        if content.get("lr_scheduler", {}).get("_name") == "cosine":
            assert plain["optimization"]["min_lr"] == content["lr_scheduler"]["min_lr"]
        read_ones += 1
    assert read_ones >= 8
