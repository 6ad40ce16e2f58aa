"""Names that others rely on: components, programs, keys of a checkpoint, what the decorators are called.

A change here is a change that users notice: it belongs into CHANGELOG.md.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from toy_speech import call, prepare, pretraining

from w2v.checkpoint.file import load_checkpoint
from w2v.training.options import REGISTRIES
from w2v_cli import train

REPOSITORY = Path(__file__).resolve().parents[2]

# Names may be added; these are the published ones and must stay.
COMPONENTS = {
    "task": {"audio_pretraining", "audio_finetuning", "language_modeling"},
    "model": {"transformer_lm", "wav2vec", "wav2vec2", "wav2vec2_large", "wav2vec_ctc"},
    "criterion": {"adaptive_loss", "cross_entropy", "ctc", "wav2vec"},
    "optimizer": {"adam", "sgd"},
    "lr_scheduler": {"cosine", "fixed", "inverse_sqrt", "polynomial_decay", "tri_stage"},
}
PROGRAMS = {"w2v-manifest", "w2v-labels", "w2v-train", "w2v-infer", "w2v-align", "w2v-featurize", "w2v-tokenize"}
CHECKPOINT = {
    *("format_version", "w2v_version", "config", "model", "optimizer", "lr_scheduler", "scaler", "iterator"),
    *("trainer", "metrics", "task"),
}
FOR_PLUGINS = {
    "w2v.models": ("W2vModel", "register_model", "register_model_architecture"),
    "w2v.criterions": ("Criterion", "register_criterion"),
    "w2v.tasks": ("Task", "register_task"),
    "w2v.optim": ("register_optimizer", "register_lr_scheduler"),
    "w2v.config": ("arg", "check_range"),
    "w2v.inference.load": ("load_model",),
    "w2v.inference.align": ("align",),
    "w2v.functional.ctc_alignment": ("forced_align", "forced_align_batch", "with_star"),
}


@pytest.mark.parametrize("section", COMPONENTS)
def test_components(section: str) -> None:
    assert set(REGISTRIES[section].names()) >= COMPONENTS[section]


def test_programs() -> None:
    text = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    listed = re.search(r"^PROGRAMS = \((.*?)\)", text, re.DOTALL | re.MULTILINE)
    assert listed is not None
    names = {f"w2v-{name}" for name in re.findall(r'"(\w+)"', listed[1])}
    assert names >= PROGRAMS
    for name in names:
        assert callable(importlib.import_module(f"w2v_cli.{name.removeprefix('w2v-')}").main)


@pytest.mark.parametrize("module", FOR_PLUGINS)
def test_what_plugins_import(module: str) -> None:
    loaded = importlib.import_module(module)
    assert all(hasattr(loaded, name) for name in FOR_PLUGINS[module])


def test_keys_of_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    data = prepare(tmp_path, 12)
    command = pretraining(data, tmp_path / "run", "--max-update", 1, "--max-tokens", 60000, "--disable-validation")
    assert call(train.main, command).code == 0
    state: dict[str, Any] = load_checkpoint(tmp_path / "run/checkpoint_last.pt")
    assert set(state) == CHECKPOINT
    assert set(state["config"]) == {
        *("common", "dataset", "distributed_training", "optimization", "checkpoint"),
        *REGISTRIES,
    }
    assert all("_name" in state["config"][section] for section in REGISTRIES)
