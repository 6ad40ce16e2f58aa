"""HuBERT in the one trainer: it learns, resumes, gives the same on two ranks, and refuses labels that do not fit."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from child import assert_same
from rank_processes import run_ranks
from small_models import HUBERT, small_trainer
from toy_speech import Outcome, call, prepare, write_classes

from w2v.checkpoint.file import load_checkpoint
from w2v.errors import TrainingError
from w2v.inference.load import load_model
from w2v.training.collapse import EARLY, SUSTAINED, CollapseMonitor
from w2v_cli import train

pytest.importorskip("soundfile")
CPU = torch.device("cpu")
RUN = [
    *HUBERT, "--optimizer", "adam", "--lr", 0.003, "--max-tokens", 60000, "--num-workers", 0, "--cpu", "--log-format",
    "json", "--no-epoch-checkpoints", "--log-interval", 1,
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("hubert"), 24)


def program(data: Path, folder: Path, *more: Any) -> Outcome:
    return call(train.main, [data, "--save-dir", folder, *RUN, *more])


def test_it_learns_logs_and_opens(data: Path, tmp_path: Path) -> None:
    ended = program(data, tmp_path, "--max-update", 40)
    assert ended.code == 0, ended.err
    lines = ended.lines("train_inner")
    assert lines[-1]["loss_m_0"] < 0.7 * lines[0]["loss_m_0"]
    assert lines[-1]["correct_m_0"] > 0.4
    assert 1 < lines[-1]["used_classes_0"] <= 6
    assert 0 < lines[-1]["label_entropy_0"] < math.log2(6)
    assert lines[-1]["pred_entropy_0"] > 0
    assert {"loss_features_pen", "correct_u_0", "loss_u_0"} <= lines[0].keys()
    valid = ended.lines("valid")[-1]
    assert valid["valid_loss_m_0"] < lines[0]["loss_m_0"]
    # Without the data folder, for features.
    loaded = load_model(tmp_path / "checkpoint_last.pt")
    features = loaded.model.extract_features(torch.randn(1, 16000), layer=1)
    assert features.features.shape == (1, 49, 16)


def test_resumed_it_is_the_same_run(data: Path, tmp_path: Path) -> None:
    whole = small_trainer(RUN, data, tmp_path / "whole", CPU, "--max-update", 7)
    whole.train()
    small_trainer(RUN, data, tmp_path / "run", CPU, "--max-update", 3).train()
    rest = small_trainer(RUN, data, tmp_path / "run", CPU, "--max-update", 7)
    rest.train()
    for part in ("model", "optimizer", "iterator"):
        assert_same(rest.state_dict()[part], whole.state_dict()[part], part)


def test_two_ranks_are_one_that_accumulates(data: Path, tmp_path: Path) -> None:
    same = ["--max-update", 3, "--disable-validation", "--dropout", 0, "--attention-dropout", 0]
    assert program(data, tmp_path / "one", *same, "--update-freq", 2).code == 0
    command = [str(item) for item in (data, "--save-dir", tmp_path / "two", *RUN, *same)]
    for code, said in run_ranks("w2v_cli.train", command, 2, tmp_path):
        assert code == 0, said
    one, other = (load_checkpoint(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("samples", "rate", "labels", "frames"), [
    (250_000, 100.0, 1561, 780), (250_000, 50.0, 781, 781), (250_000, 100.0, 1562, 781),
])  # fmt: skip
def test_frames_are_trimmed_to_labels(samples: int, rate: float, labels: int, frames: int) -> None:
    """A whole clip of 250,000 samples has 1,561 labels of MFCC; a crop of a longer clip has one more."""
    from w2v.config import build_config
    from w2v.models import MODELS

    entry = MODELS.get("hubert_base")
    config = build_config(entry.config, {**entry.overrides, "encoder_layers": 1}, "test")
    with torch.device("meta"):
        model: Any = entry.cls.build(config, num_classes=[104], label_rate=rate, sample_rate=16000)
    source = torch.empty(1, samples, device="meta")
    assert model._trimmed(model.frames(source, None), source, None, labels).size == frames


def changed(data: Path, folder: Path) -> Path:
    shutil.copytree(data, folder)
    return folder


def refusal(data: Path, folder: Path, *more: Any) -> str:
    ended = program(data, folder, "--max-update", 1, *more)
    assert ended.code == 2
    assert len(ended.err.strip().splitlines()) == 1
    return ended.err


def test_labels_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    save = tmp_path / "save"
    bad = changed(data, tmp_path / "unknown")
    (bad / "dict.km.txt").write_text("0 1\n1 1\n2 1\n3 1\n4 1\n")
    assert "are not in the dictionary and become <unk>: '5'" in refusal(bad, save)
    (bad / "dict.km.txt").write_text("0 1\n1 1\n0 1\n")
    assert "dict.km.txt:3: '0' is in line 1 already" in refusal(bad, save)
    bad = changed(data, tmp_path / "lines")
    lines = (bad / "train.km").read_text().splitlines(keepends=True)
    (bad / "train.km").write_text("".join(lines[1:]))
    assert f"has {len(lines) - 1} lines, but its manifest lists {len(lines)} clips" in refusal(bad, save)
    found = refusal(data, save, "--label-rate", 50)
    assert "at --label-rate 50" in found
    assert "about 100 per second" in found
    bad = changed(data, tmp_path / "models")
    for split, model in (("train", "aa"), ("valid", "bb")):
        (bad / f"{split}.km.json").write_text(json.dumps({"kmeans": model, "label_rate": 100.0}))
    assert "are of two k-means models" in refusal(bad, save)
    (bad / "train.km.json").write_text(json.dumps({"kmeans": "bb", "label_rate": 50}))
    assert "holds 50 labels per second, got --label-rate 100" in refusal(bad, save)
    assert "needs --labels and --label-rate" in refusal(data, save, "--label-rate", 0)
    assert "--skip-masked leaves out frames that --pred-masked-weight 1 is for" in refusal(data, save, "--skip-masked")


def test_another_dictionary_starts_anew(data: Path, tmp_path: Path) -> None:
    assert program(data, tmp_path / "save", "--max-update", 1).code == 0
    second = changed(data, tmp_path / "second")
    for split in ("train", "valid"):
        write_classes(second, split, classes=5)
    assert "trained on other classes" in refusal(second, tmp_path / "save", "--max-update", 2)


def test_two_label_sets(data: Path, tmp_path: Path) -> None:
    both = changed(data, tmp_path / "both")
    for split in ("train", "valid"):
        write_classes(both, split, "km3", classes=3)
    ended = program(both, tmp_path / "save", "--labels", '["km","km3"]', "--untie-final-proj", "--max-update", 2)
    assert ended.code == 0, ended.err
    assert {"loss_m_0", "loss_m_1", "used_classes_1"} <= ended.lines("train_inner")[0].keys()
    state = load_checkpoint(tmp_path / "save" / "checkpoint_last.pt")
    assert state["config"]["model"]["num_classes"] == [10, 7]
    assert state["model"]["label_embs_concat"].shape == (17, 8)


def lines(updates: range, predicted: float, labels: float = 5.0) -> list[dict[str, float]]:
    return [{"num_updates": n, "pred_entropy_0": predicted, "label_entropy_0": labels} for n in updates]


def watch(*parts: list[dict[str, float]]) -> None:
    monitor = CollapseMonitor((0, 0), stop=False)
    for part in parts:
        for line in part:
            monitor.look_at(line)
        state = monitor.state_dict()  # as if the run were resumed here
        monitor = CollapseMonitor((0, 0), stop=False)
        monitor.load_state_dict(state)


def test_a_fall_to_one_class_ends_training() -> None:
    with pytest.raises(TrainingError, match=r"one class for 500 updates, where labels have 5\.0 bits"):
        watch(lines(range(100, 900, 100), 3.0), lines(range(900, 2000, 100), 0.0))
    with pytest.raises(TrainingError, match="one class"):
        watch(lines(range(100, EARLY + SUSTAINED + 200, 100), 0.0))
    watch(lines(range(100, EARLY, 100), 0.0))  # most models begin like this
    watch(lines(range(100, 9000, 100), 3.0, 0.0), lines(range(9000, 20000, 100), 0.0, 0.0))  # all is silence
    watch(lines(range(100, 900, 100), 3.0), lines(range(900, 1300, 100), 0.0), lines(range(1300, 3000, 100), 1.0))


def test_entropies_by_hand() -> None:
    from w2v.criterions.hubert import _use_of_classes
    from w2v.functional.contrastive import class_logits
    from w2v.types import ClassLogits

    labels = torch.tensor([0, 0, 1, 2])
    predictions = torch.eye(4)[torch.tensor([0, 1, 1, 3])]
    found = _use_of_classes(ClassLogits(class_logits(predictions, torch.eye(4), labels, 0.1), labels))
    assert {name: pytest.approx(float(value)) for name, value in found.items()} == {
        "used_classes": 3, "label_entropy": 1.5, "pred_entropy": 1.5,
    }  # fmt: skip
    assert np.isfinite(float(_use_of_classes(ClassLogits(torch.zeros(0, 5), labels[:0]))["pred_entropy"]))
