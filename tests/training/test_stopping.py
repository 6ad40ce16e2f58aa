"""When training ends, validates and saves; what it logs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from toy_training import make_trainer

from w2v.config.sections import CheckpointConfig, CommonConfig, DatasetConfig
from w2v.errors import ConfigError
from w2v.training.intervals import Cadence


def logged(caplog: pytest.LogCaptureFixture, tag: str) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == tag]


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


@pytest.mark.parametrize(
    ("limits", "reason", "num_updates"),
    [
        ({"max_update": 7}, "--max-update 7", 7),
        ({"max_update": 0, "max_epoch": 2}, "--max-epoch 2", 22),
        ({"max_update": 0, "stop_time_hours": 1e-9}, "--stop-time-hours", 1),
    ],
)
def test_reasons_to_stop(tmp_path: Path, limits: dict[str, Any], reason: str, num_updates: int,
                         caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    trainer = make_trainer(tmp_path, {"optimization": limits})
    assert reason in trainer.train()
    assert trainer.num_updates == num_updates
    assert "checkpoint_last.pt" in files(tmp_path)
    assert "checkpoint_best.pt" in files(tmp_path)  # it was validated, even in the middle of an epoch
    assert logged(caplog, "valid")[-1]["valid_num_updates"] == str(num_updates)
    assert reason in caplog.text


def test_training_ends_when_the_rate_has_fallen(tmp_path: Path) -> None:
    schedule = {"name": "polynomial_decay", "total_num_update": 20}
    trainer = make_trainer(tmp_path, {"schedule": schedule, "optimization": {"max_update": 0, "min_lr": 0.005}})
    assert "--min-lr" in trainer.train()
    assert trainer.num_updates == 10


def test_a_warm_up_from_zero_is_no_reason_to_stop(tmp_path: Path) -> None:
    schedule = {"name": "polynomial_decay", "total_num_update": 20, "warmup_updates": 2}
    trainer = make_trainer(tmp_path, {"schedule": schedule, "optimization": {"max_update": 5, "min_lr": 0.0}})
    assert "--max-update" in trainer.train()


def test_patience_counts_validations_without_improvement(tmp_path: Path) -> None:
    options = {
        "optimization": {"max_update": 50},
        "checkpoint": {"patience": 2},
        "dataset": {"validate_interval_updates": 2},
    }
    trainer = make_trainer(tmp_path, options)
    trainer.task.valid_losses = [x for loss in (5.0, 4.0, 4.5, 3.0, 3.0, 6.0, 1.0) for x in (loss, loss, loss)]  # type: ignore[attr-defined]
    assert "--patience 2" in trainer.train()
    # Validations after updates 2, 4, 6, 8, 10; the epoch ends at 11 with the sixth.
    assert trainer.num_updates == 11


def test_validation_waits_and_names_its_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = {"validate_after_updates": 15, "validate_interval_updates": 4}
    make_trainer(tmp_path, {"optimization": {"max_update": 25}, "dataset": dataset}).train()
    found = logged(caplog, "valid")
    assert [int(line["valid_num_updates"]) for line in found] == [16, 20, 22, 24, 25]
    assert "valid_best_loss" not in found[0]
    # Before the first save no score is remembered: an interval of validation alone does not save.
    best = [line.get("valid_best_loss") for line in found]
    assert best[-1] == min(line["valid_loss"] for line in found[2:])


def test_several_subsets_and_the_first_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = {"valid_subset": "dev_clean,dev_other"}
    make_trainer(tmp_path, {"dataset": dataset, "optimization": {"max_update": 3}}).train()
    assert list(logged(caplog, "dev_other")[0])[:2] == ["epoch", "dev_other_loss"]
    assert logged(caplog, "dev_clean")[0]["dev_clean_loss"] == logged(caplog, "dev_other")[0]["dev_other_loss"]


def test_an_unknown_metric_is_named(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {"checkpoint": {"best_checkpoint_metric": "wer"}})
    with pytest.raises(ConfigError, match=r"--best-checkpoint-metric must be one of loss.*got 'wer'"):
        trainer.train()


def test_log_lines_have_the_keys_of_the_original(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(
        tmp_path, {"common": {"log_interval": 5}, "optimization": {"max_update": 20, "clip_norm": 0.0}}
    ).train()
    inner, epoch = logged(caplog, "train_inner"), logged(caplog, "train")
    criterion = ["loss", "ntokens", "nsentences", "absolute"]
    rest = ["wps", "ups", "wpb", "bsz", "num_updates", "lr", "gnorm", "train_wall", "wall"]
    assert list(inner[0]) == ["epoch", "update", *criterion, *rest, "audio_s", "eta", "data_wait", "start"]
    assert list(epoch[0]) == ["epoch", *(f"train_{name}" for name in criterion + rest), "start"]
    assert [line["num_updates"] for line in inner] == ["5", "10", "15", "20"]
    assert [line["update"] for line in inner] == [0.455, 0.909, 1.364, 1.818]
    assert inner[0]["bsz"] == inner[0]["nsentences"] == "2"
    assert all(isinstance(value, str) for name, value in inner[0].items() if name not in ("epoch", "update"))


def test_epoch_averages_are_over_the_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path, {"optimization": {"max_update": 0, "max_epoch": 2}})
    trainer.train()
    for number, line in enumerate(logged(caplog, "train")):
        inner = [item for item in logged(caplog, "train_inner") if item["epoch"] == number + 1]
        tokens = [float(item["ntokens"]) for item in inner]
        loss = sum(float(item["loss"]) * n for item, n in zip(inner, tokens)) / sum(tokens)
        assert float(line["train_loss"]) == pytest.approx(loss, abs=2e-3)
        assert float(line["train_ntokens"]) == pytest.approx(sum(tokens) / len(tokens), rel=1e-4)


def cadence(**sections: Any) -> Cadence:
    return Cadence(
        CommonConfig(**sections.get("common", {})),
        DatasetConfig(**sections.get("dataset", {})),
        CheckpointConfig(**sections.get("checkpoint", {})),
    )


def test_intervals_of_the_cadence() -> None:
    decide = cadence(checkpoint={"save_interval_updates": 4, "save_interval": 2}, dataset={"validate_interval": 3})
    assert decide.is_due(4)
    middle = decide.plan(4, 1, end_of_epoch=False, stopping=False)
    assert (middle.validate, middle.save) == (True, True)
    assert not decide.is_due(4)  # a skipped update leaves the number as it was
    again = decide.plan(4, 1, end_of_epoch=False, stopping=False)
    assert (again.log, again.validate, again.save) == (False, False, False)
    plans = [decide.plan(10 + epoch, epoch, end_of_epoch=True, stopping=False) for epoch in (1, 2, 3)]
    assert [(plan.validate, plan.save) for plan in plans] == [(False, False), (True, True), (True, False)]
    stop = decide.plan(15, 4, end_of_epoch=False, stopping=True)
    assert (stop.validate, stop.save) == (True, True)
    never = cadence(dataset={"disable_validation": True}).plan(15, 4, end_of_epoch=True, stopping=True)
    assert (never.validate, never.save) == (False, True)
