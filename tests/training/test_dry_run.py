"""`--dry-run`: what it finds, that it trains the later part of a run, and that it leaves nothing behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_speech import call, prepare, pretraining
from toy_training import CLIPS_PER_BATCH, NUM_CLIPS, make_trainer

from w2v.training import dry_run as module
from w2v.training.dry_run import dry_run, suggested_max_tokens, updates_in_all
from w2v_cli import train

KEYS = [
    "updates", "seconds_per_update", "audio_s", "data_wait", "updates_per_epoch", "updates_in_all", "seconds_in_all",
    "peak_memory", "memory", "padding", "cropped", "max_tokens",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("speech"), 40)


def found(data: Path, *more: Any) -> dict[str, Any]:
    """Return what `w2v-train --dry-run` puts into its line of JSON."""
    outcome = call(train.main, pretraining(data, data.parent / "run", "--dry-run", *more))
    assert outcome.code == 0, outcome.err
    assert not (data.parent / "run").exists()
    (line,) = outcome.lines("dry_run")
    return line


def test_a_line_of_json(data: Path) -> None:
    line = found(data, "--max-tokens", 48000, "--max-update", 100, "--num-workers", 1)
    assert list(line) == KEYS
    assert line["updates"] == 20
    assert line["updates_in_all"] == 100
    assert line["seconds_in_all"] == pytest.approx(100 * line["seconds_per_update"], rel=1e-4)
    assert 2 < line["audio_s"] * line["seconds_per_update"] <= 3  # four clips of up to 12,000 samples
    assert line["updates_per_epoch"] == math.ceil(36 / 4)
    assert 0 <= line["data_wait"] < 1
    assert line["padding"] == 0
    assert 0 < line["cropped"] < 1
    assert 50e6 < line["peak_memory"] < line["memory"]
    assert line["max_tokens"] > 48000


def test_a_table_for_people(data: Path) -> None:
    command = pretraining(data, data.parent / "run", "--max-update", 0, "--log-format", "simple", "--dry-run")
    outcome = call(train.main, command)
    assert outcome.code == 0
    rows = [line[:18].strip() for line in outcome.out.splitlines() if " | " not in line]
    assert rows == [
        "speed", "time per update", "waiting for data", "updates per epoch", "time to the end", "peak memory",
        "padding", "cropped away", "--max-tokens",
    ]  # fmt: skip
    assert "no end: give --max-update or --max-epoch" in outcome.out


def test_it_trains_what_is_frozen_in_the_beginning(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", {"model": {"freeze_updates": 400}, "optimization": {"max_update": 1000}})
    result = dry_run(trainer, None)
    model: Any = trainer.model
    assert model.updates_seen == list(range(500, 500 + module.WARM_UP + module.UPDATES))
    assert (result.audio_s, result.padding, result.cropped, result.max_tokens) == (None, None, None, None)
    assert not (tmp_path / "run").exists()


def test_slow_updates_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1e-9)
    assert dry_run(make_trainer(tmp_path), None).updates == 1


def test_the_end_of_a_run(tmp_path: Path) -> None:
    batches = NUM_CLIPS // CLIPS_PER_BATCH
    options: dict[str, Any] = {"max_update": 0, "max_epoch": 4, "update_freq": (1, 2, 4)}
    by_epochs = batches + math.ceil(batches / 2) + 2 * math.ceil(batches / 4)
    assert updates_in_all(make_trainer(tmp_path, {"optimization": options})) == by_epochs
    options["max_update"] = 5
    assert updates_in_all(make_trainer(tmp_path, {"optimization": options})) == 5
    assert updates_in_all(make_trainer(tmp_path, {"optimization": {"max_update": 0}})) is None


def test_the_suggestion_fills_the_memory(tmp_path: Path) -> None:
    """On a machine whose memory is what the model needs, and a thousand bytes for each sample."""
    trainer = make_trainer(tmp_path)
    dry_run(trainer, None)
    numbers = sum(parameter.numel() for parameter in trainer.model.parameters())
    fixed = 10**6 + 4 * 3 * numbers  # a gradient and two moments

    class Memory:
        before, size = 10**6, int((fixed + 1000 * 7_300_000) / module.HEADROOM) + 1
        failed = False

        def peak(self) -> int:
            return fixed + 1000 * 1_400_000

        def has_failed(self) -> bool:
            return self.failed

    memory: Any = Memory()
    assert suggested_max_tokens(trainer, memory, 1_400_000) == 7_300_000
    memory.failed = True
    assert suggested_max_tokens(trainer, memory, 1_400_000) == 700_000
    memory.size = 1000
    assert suggested_max_tokens(trainer, memory, 1_400_000) == 0


def test_two_ranks(data: Path) -> None:
    threads = torch.get_num_threads()
    command = pretraining(data, data.parent / "run", "--max-tokens", 48000, "--max-epoch", 3, "--max-update", 0)
    outcome = call(train.main, [*command, "--dry-run", "--distributed-world-size", 2])
    assert outcome.code == 0, outcome.err
    assert not (data.parent / "run").exists()
    assert torch.get_num_threads() == threads
