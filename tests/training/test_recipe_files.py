"""Recipes by name: every one is listed, read with the values of its source, shown, and trains for two updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_speech import call, prepare

from w2v.checkpoint.file import load_checkpoint
from w2v.config.recipes import FOLDER, recipe_names
from w2v.errors import ConfigError
from w2v.training.options import parse_train_command
from w2v_cli import train

pytest.importorskip("soundfile")

NAMES = (
    *("base-1gpu", "base-8gpu", "base-64gpu", "large", "ctc-10min", "ctc-1h", "ctc-10h", "ctc-100h", "ctc-960h"),
    *("continue-pretraining", "wav2vec", "vq-gumbel", "vq-kmeans", "tiny-cpu", "hubert-base", "hubert-large"),
)
OF_TOKENS = ("bert-kmeans",)  # tests/examples/test_tokens_page.py trains it
COMMON = ["--cpu", "--no-bf16", "--num-workers", "0", "--max-update", "2", "--max-tokens", "64000"]
CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2"
TRANSFORMER = [
    *("--conv-feature-layers", CONV, "--encoder-layers", "1", "--encoder-embed-dim", "32"),
    *("--encoder-ffn-embed-dim", "64", "--encoder-attention-heads", "2", "--conv-pos", "16", "--conv-pos-groups", "4"),
    *("--final-dim", "16", "--latent-vars", "8", "--num-negatives", "10"),
]
CNN = ["--conv-feature-layers", "[(16, 10, 5), (16, 8, 4), (16, 4, 2), (16, 4, 2), (16, 4, 2)]",
       "--conv-aggregator-layers", "[(16, 2, 1), (16, 3, 1)]"]  # fmt: skip
SHORT = ["--min-sample-size", "8000", "--max-sample-size", "16000", "--batch-audio", "4s", "--warmup-updates", "1"]


def parse(*argv: Any) -> Any:
    return parse_train_command([str(word) for word in argv]).config


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with manifests, labels and dictionary."""
    return prepare(tmp_path_factory.mktemp("speech"), 16, num_words=(4, 6), valid_percent=0.2)


@pytest.fixture(scope="module")
def pretrained(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    argv = [speech, "--save-dir", folder, "--recipe", "base-1gpu", *COMMON, *TRANSFORMER, *SHORT]
    assert call(train.main, argv).code == 0
    return folder / "checkpoint_last.pt"


def further(name: str, pretrained: Path) -> list[Any]:
    """Return the flags that make a recipe small."""
    if name.startswith("ctc"):
        return ["--w2v-path", pretrained, "--mask-channel-length", "8", "--batch-audio", "4s"]
    if name == "continue-pretraining":
        return ["--finetune-from-model", pretrained, *SHORT]
    if name == "tiny-cpu":
        return ["--min-sample-size", "8000", "--warmup-updates", "1"]
    if name.startswith(("vq", "wav2vec")):
        vq = ["--vq-vars", "8", "--batch-audio", "4s"] if name.startswith("vq") else []
        return [*CNN, "--max-sample-size", "16000", "--warmup-updates", "1", *vq]
    if name.startswith("hubert"):
        return [*TRANSFORMER[:-4], *SHORT, "--label-rate", "100"]
    return [*TRANSFORMER, *SHORT]


@pytest.mark.parametrize("name", NAMES)
def test_two_updates(name: str, speech: Path, pretrained: Path, tmp_path: Path) -> None:
    argv = [speech, "--save-dir", tmp_path, "--recipe", name, *COMMON, *further(name, pretrained)]
    outcome = call(train.main, argv)
    assert outcome.code == 0, outcome.err
    state = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert state["trainer"]["num_updates"] == 2
    assert state["config"]["optimizer"]["adam_betas"] == ([0.9, 0.98] if name not in NAMES[10:13] else [0.9, 0.999])


def test_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(NAMES + OF_TOKENS) == recipe_names()
    outcome = call(train.main, ["--recipe", "help"])
    assert outcome.code == 0
    assert all(f"  {name} " in outcome.out for name in NAMES)
    assert str(FOLDER) in outcome.out
    with pytest.raises(ConfigError, match="no recipe 'base-2gpu'; did you mean base-"):
        parse("data", "--recipe", "base-2gpu")
    with pytest.raises(
        ConfigError, match=r"no recipe 'my\.yaml'; --config my\.yaml reads a file of your own; known: base"
    ):
        parse("data", "--recipe", "my.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_recipe_is_the_recipe(name: str, tmp_path: Path) -> None:
    outcome = call(train.main, ["--recipe", name, "--print-config"])
    if name == "continue-pretraining":  # its architecture is that of a model which must be named
        assert outcome.code == 0
        return
    assert outcome.code == 0, outcome.err
    shown = yaml.safe_load(outcome.out)
    assert shown["task"]["data"] == "???"
    (tmp_path / "x.yaml").write_text(outcome.out)
    given = ["DATA", *(["--w2v-path", "MODEL"] if name.startswith("ctc") else [])]
    assert parse(*given, "--config", tmp_path / "x.yaml").to_plain() == parse(*given, "--recipe", name).to_plain()


def test_values_of_the_paper() -> None:
    base, large = parse("d", "--recipe", "base-64gpu"), parse("d", "--recipe", "large")
    assert (base.optimization.max_update, base.optimization.lr, base.lr_scheduler.config.warmup_updates) == (
        400_000, (0.0005,), 32_000,
    )  # fmt: skip
    assert (large.optimization.max_update, large.optimization.lr) == (600_000, (0.0003,))
    assert large.model.config.encoder_layers == 24
    # Appendix B: shares of frames and channels that begin a span, and updates.
    table = {"10min": (0.075, 0.008, 12_000), "1h": (0.075, 0.004, 13_000), "10h": (0.065, 0.004, 20_000),
             "100h": (0.05, 0.008, 50_000), "960h": (0.05, 0.0016, 320_000)}  # fmt: skip
    for hours, (time, channel, updates) in table.items():
        config = parse("d", "--recipe", f"ctc-{hours}", "--w2v-path", "m")
        model = config.model.config
        assert (model.mask_prob, model.mask_channel_prob) == pytest.approx((10 * time, 64 * channel))
        assert config.optimization.max_update == updates


def test_what_wins_and_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("optimization: {max_update: 7, lr: [0.1]}\n")
    config = parse("d", "--recipe", "base-8gpu", "--config", file, "--max-update", "9", "--lr-scheduler", "fixed")
    assert (config.optimization.max_update, config.optimization.lr) == (9, (0.1,))
    assert config.lr_scheduler.entry.name == "fixed"
    with pytest.raises(ConfigError, match=r"ctc-1h\.yaml:\d+: w2v_path is \?\?\?: give --w2v-path"):
        parse("d", "--recipe", "ctc-1h")
