"""The command line of w2v-train: precedence of its sources, files, round trips, messages."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_speech import call

from w2v.config.unsupported_flags import TRAIN as UNSUPPORTED
from w2v.criterions import CRITERIONS
from w2v.errors import ConfigError, RegistryError, W2vError
from w2v.models import MODELS
from w2v.optim import LR_SCHEDULERS, OPTIMIZERS
from w2v.tasks import TASKS
from w2v.training.options import REGISTRIES, ROOT_SECTIONS, TrainConfig, parse_train_command
from w2v_cli import train

BASE = ["data", "--arch", "wav2vec2", "--criterion", "wav2vec"]


def parse(*argv: Any) -> TrainConfig:
    return parse_train_command([str(argument) for argument in argv]).config


def printed(*argv: Any) -> str:
    outcome = call(train.main, [*argv, "--print-config"])
    assert outcome.code == 0, outcome.err
    return outcome.out


# ------------------------------------------------------------------------------------------ precedence


def test_typed_wins_over_file_over_preset_over_default(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(
        "model: {_name: wav2vec2_large, encoder_layers: 6, final_dim: 99, dropout: 0.3}\n"
        "criterion: {_name: wav2vec}\n"
        "task: {data: from_file}\n"
        "optimization: {max_update: 7, lr: [0.1, 0.2]}\n"
    )
    config = parse("--config", file, "--final-dim", 11, "--max-update", 8)
    model: Any = config.model.config
    assert config.model.entry.name == "wav2vec2_large"
    assert model.final_dim == 11  # typed
    assert model.encoder_layers == 6  # file
    assert model.encoder_embed_dim == 1024  # preset
    assert model.conv_pos == 128  # default
    assert config.optimization.max_update == 8
    assert config.optimization.lr == (0.1, 0.2)
    assert config.task.config.data == "from_file"
    assert parse("typed", "--config", file).task.config.data == "typed"
    assert parse("--config", file, "--max-update", 8, "typed", "--no-save").task.config.data == "typed"
    with pytest.raises(ConfigError, match="unexpected argument 'twice'"):
        parse("--config", file, "typed", "--no-save", "twice")


def test_a_typed_choice_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("lr_scheduler: {_name: cosine}\n")
    assert parse(*BASE, "--config", file).lr_scheduler.entry.name == "cosine"
    assert parse(*BASE, "--config", file, "--lr-scheduler", "fixed").lr_scheduler.entry.name == "fixed"


def test_a_switch_of_the_file_can_be_turned_off(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("common: {cpu: true, fp16: true}\n")
    assert parse(*BASE, "--config", file).common.fp16
    assert not parse(*BASE, "--config", file, "--no-fp16").common.fp16


def test_defaults_of_components() -> None:
    config = parse(*BASE)
    names = [config.task.entry.name, config.optimizer.entry.name, config.lr_scheduler.entry.name]
    assert names == ["audio_pretraining", "adam", "fixed"]


# ------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("criterion", CRITERIONS.names())
@pytest.mark.parametrize("arch", MODELS.names())
def test_what_is_printed_is_read_back(arch: str, criterion: str, tmp_path: Path) -> None:
    first = printed("data", "--arch", arch, "--criterion", criterion)
    (tmp_path / "again.yaml").write_text(first)
    assert printed("--config", tmp_path / "again.yaml") == first


@pytest.mark.parametrize("registry", [TASKS, OPTIMIZERS, LR_SCHEDULERS], ids=lambda registry: registry.kind)
def test_so_are_the_other_components(registry: Any, tmp_path: Path) -> None:
    for name in registry.names():
        # The two have a --mask-prob each, of tokens and of frames: no command has both.
        base = ["data", "--arch", "roberta", "--criterion", "masked_lm"] if name == "masked_lm" else BASE
        first = printed(*base, registry.flag, name, *(["--labels", "ltr"] if name.startswith("audio") else []))
        (tmp_path / "again.yaml").write_text(first)
        assert printed("--config", tmp_path / "again.yaml") == first


def test_values_of_every_kind_are_read_back(tmp_path: Path) -> None:
    typed = [
        *("a folder: with #marks", "--arch", "wav2vec_ctc", "--criterion", "ctc", "--labels", "ltr", "--seed", 7),
        *("--wer-args", "('lm.bin', None, 2, -1)", "--w2v-args", '{"encoder_layers": 2, "latent_temp": [2, 0.5, 0.9]}'),
        *("--lr", "1e-5,3e-7", "--update-freq", "[4, 2]", "--adam-betas", "(0.9, 0.98)", "--min-lr", "-inf"),
        *("--apply-mask", "--no-save", "--save-dir", "no", "--lr-scheduler", "tri_stage", "--w2v-path", "1e3"),
    ]
    first = printed(*typed)
    (tmp_path / "again.yaml").write_text(first)
    assert printed("--config", tmp_path / "again.yaml") == first
    config = parse("--config", tmp_path / "again.yaml")
    assert config == parse(*typed)
    assert config.checkpoint.save_dir == "no"  # not the word for false of YAML
    assert config.model.config.w2v_path == "1e3"


def test_plain_data_is_plain() -> None:
    config = parse(*BASE, "--infonce", "--loss-weights", "[0.1, 10]", "--conv-feature-layers", "[(8, 10, 5)] * 2")
    assert yaml.safe_load(yaml.safe_dump(config.to_plain())) == config.to_plain()


def test_the_file_has_a_section_for_every_part() -> None:
    assert list(parse(*BASE).to_plain()) == [field.name for field in dataclasses.fields(TrainConfig)]
    assert {*ROOT_SECTIONS, *REGISTRIES} == {field.name for field in dataclasses.fields(TrainConfig)}


# --------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("common: {seed: 1\n", ":2: is no YAML"),
        ("common:\n  seed: 1\n seed: 2\n", ":3: is no YAML"),
        ("common:\n\tseed: 1\n", ":2: is no YAML"),
        ("commons: {seed: 1}\n", "unknown section 'commons'; known: common, "),
        ("common: {sede: 1}\n", "section common: unknown option 'sede'; did you mean 'seed'"),
        ("common: {seed: one}\n", "--seed: must be a whole number, got 'one'"),
        ("common: {user_dir: [a]}\n", "--user-dir: must be text, got ['a']"),
        ("common: 3\n", "section 'common' must hold options, got 3"),
        ("- common\n", "must hold sections"),
        ("", "must hold sections"),
        ("model: {_name: wav2vec3}\n", "--arch: unknown model 'wav2vec3'; did you mean"),
        ("model: {_name: [1]}\n", "--arch: a name is text"),
        ("model: {encoder_layers: 3}\n", None),
        ("model: !!python/object/apply:os.system ['true']\n", ":1: is no plain YAML: the tag"),
        ("model:\n  dropout: !!python/name:os.system x\n", ":2: is no plain YAML: 'x' would be"),
        ("model:\n  dropout: 2001-99-99\n", ":2: is no plain YAML: '2001-99-99' would be 'timestamp'; quote it"),
        ("model:\n  dropout: !!int x\n", ":2: 'x' is no int"),
        ("common:\n  seed: 1\n  seed: 2\n", ":3: 'seed' is given twice"),
        ("common:\n  seed: &a 1\n  log_interval: *a\n", ":2: is no plain YAML: a value is used twice"),
        ("common:\n  ? [a]\n  : 1\n", ":2: a name must be text, got ['a']"),
        ("common:\n  1: 1\n", ":2: a name must be text, got 1"),
        ("common:\n  seed: " + "[" * 30 + "]" * 30, ":2: is nested too deeply"),
        ("common:\n  seed: " + "[" * 30_000, ":1: is nested too deeply"),
        ("common:\n  seed: \0", ":1: is no YAML: "),
        ("common:\n  fp16: true\n  seed: one\n", ":3: --seed: must be a whole number, got 'one'"),
        ("common:\n  seed: 1\n  log_interval: 0\n", ":3: --log-interval must be at least 1, got 0"),
        ("common:\n  seed: 1\nmodel: {_name: wav2vec3}\n", ":3: --arch: unknown model 'wav2vec3'; did you mean"),
        ("a: &a [x]\n", "unknown section 'a'"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text: str, words: str | None, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    if words is None:
        assert parse(*BASE, "--config", file).model.config.encoder_layers == 3
        return
    if words.startswith(("section", "unknown section", ":", "must", "--user")):
        words = words if words[0] != ":" else f"{file}{words}"
    with pytest.raises(W2vError, match=re.escape(words)) as caught:
        parse("data", "--criterion", "wav2vec", *([] if "_name" in text else ["--arch", "wav2vec2"]), "--config", file)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*none\.yaml: No such file"):
        parse(*BASE, "--config", tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        parse(*BASE, "--config", tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\n\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary.yaml:2: is no UTF-8 text"):
        parse(*BASE, "--config", tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"a: 1\n" * 300_000)
    with pytest.raises(ConfigError, match=r"large.yaml: is larger than 1048576 bytes"):
        parse(*BASE, "--config", tmp_path / "large.yaml")


def test_a_file_cannot_be_larger_than_it_is_long(tmp_path: Path) -> None:
    """Each line names the one before it ten times: ten thousand million values in two hundred bytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=r"bomb.yaml:1: is no plain YAML: a value is used twice"):
        parse(*BASE, "--config", tmp_path / "bomb.yaml")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["data"], "--arch is required; known: hubert, "),
        (["data", "--arch", "wav2vec2"], "--criterion is required; known: adaptive_loss, cross_entropy, ctc, "),
        ([*BASE, "--encoder-layer", "3"], "unknown flag --encoder-layer; did you mean --encoder-layers"),
        ([*BASE, "--max-updates", "3"], "unknown flag --max-updates; did you mean --max-update"),
        ([*BASE, "--wer-args", "x"], "unknown flag --wer-args"),
        ([*BASE, "--arch", "wav2vec2_larg"], "--arch: unknown model 'wav2vec2_larg'; did you mean 'wav2vec2_large'"),
        ([*BASE, "--task", "audio"], "--task: unknown task 'audio'"),
        ([*BASE[1:]], "data"),
        ([*BASE, "more"], "unexpected argument 'more'"),
        ([*BASE, "--tpu"], "w2v-train has no --tpu: TPUs are not supported"),
        ([*BASE, "--optimizer-overrides={}"], "w2v-train has no --optimizer-overrides: "),
        ([*BASE, "--user-dir", "nowhere"], "--user-dir must be a python file or a folder, got 'nowhere'"),
        ([*BASE, "--fp16", "--bf16"], "--fp16 and --bf16 exclude each other"),
        ([*BASE, "--mask-prob", "1.5"], "--mask-prob must lie in [0, 1], got 1.5"),
        ([*BASE, "--encoder-attention-heads", "7"], "--encoder-attention-heads must divide --encoder-embed-dim"),
        ([*BASE, "--conv-feature-layers", "[(512, 10)]"], "--conv-feature-layers"),
        ([*BASE, "--latent-temp", "(2, 0.5)"], "--latent-temp: must be three numbers"),
        ([*BASE, "--update-freq", "0"], "--update-freq must be at least 1"),
        ([*BASE, "--log-format", "xml"], "--log-format must be one of json, none, simple, tqdm"),
        ([*BASE, "--arch"], "--arch"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_one_line_for_every_mistake(argv: list[str], words: str) -> None:
    with pytest.raises((ConfigError, RegistryError), match=re.escape(words)) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


def test_the_edge_prints_one_line_and_exits_2() -> None:
    outcome = call(train.main, [*BASE, "--max-updates", "3"])
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("flag", ["-a", "--arch"])
def test_the_short_spelling_of_arch(flag: str) -> None:
    assert parse("data", flag, "wav2vec2_large", "--criterion", "wav2vec").model.entry.name == "wav2vec2_large"


def test_a_choice_called_none_is_not_the_lack_of_one() -> None:
    assert parse(*BASE, "--log-format", "none").common.log_format == "none"
    assert parse(*BASE, "--tensorboard-logdir", "none").common.tensorboard_logdir is None


def test_equals_signs_and_flags_before_the_folder() -> None:
    config = parse("--arch=wav2vec2", "--criterion=wav2vec", "--lr=0.5", "--log-keys=a,b", "data")
    assert config.optimization.lr == (0.5,)
    assert config.criterion.config.log_keys == ("a", "b")
    assert config.task.config.data == "data"


def test_the_value_of_a_flag_is_never_taken_for_an_unsupported_flag() -> None:
    assert parse(*BASE, "--save-dir", "runs/--tpu").checkpoint.save_dir == "runs/--tpu"


def test_unsupported_flags_say_what_to_do() -> None:
    for flag, advice in UNSUPPORTED.items():
        assert flag.startswith("--")
        assert advice[0].islower() or advice.split()[0].isupper() or advice.startswith("TPUs")
        assert not advice.endswith(".")


@pytest.mark.parametrize(
    "choice", [[], ["--arch", "wav2vec_ctc", "--criterion", "ctc", "--optimizer", "sgd", "--lr-scheduler", "tri_stage"]]
)
def test_help_shows_the_flags_of_the_choice(choice: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_train_command([*choice, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--freeze-finetune-updates", "--zero-infinity", "--momentum", "--hold-steps"):
        assert (flag in text) == bool(choice)
    assert "--save-dir" in text
