"""One update: how micro-batches add up, what is skipped, number formats, frozen parameters."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import CLIPS_PER_BATCH, NUM_CLIPS, ToyCriterion, ToyDataset, ToyModel, make_trainer

from w2v.checkpoint.file import load_checkpoint
from w2v.errors import TrainingError
from w2v.optim.adam import Adam, AdamConfig
from w2v.types import Loss


def train(save_dir: Path, **options: Any) -> Any:
    trainer = make_trainer(save_dir, options)
    trainer.train()
    return trainer


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_accumulated_batches_are_one_large_batch(tmp_path: Path, clip_norm: float) -> None:
    """An epoch in one update equals a step on the mean over all samples, taken by hand."""
    num_batches = NUM_CLIPS // CLIPS_PER_BATCH
    limits = {"update_freq": (num_batches,), "max_update": 3, "clip_norm": clip_norm}
    trainer = train(tmp_path, optimization=limits)

    model, data, criterion = ToyModel(0.0, 0), ToyDataset(), ToyCriterion(None)
    adam = Adam(AdamConfig(), model.parameters())
    for _ in range(3):
        losses = [
            criterion(model(batch.source), batch)
            for batch in (data.batch(range(i, i + CLIPS_PER_BATCH), 0) for i in range(0, NUM_CLIPS, CLIPS_PER_BATCH))
        ]
        adam.zero_grad()
        (sum(loss.value for loss in losses) / sum(loss.sample_size for loss in losses)).backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        adam.step(0.01)
    expected = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights(trainer), expected, rtol=1e-5, atol=1e-6)


def test_update_freq_may_change_by_epoch(tmp_path: Path) -> None:
    trainer = train(tmp_path, optimization={"update_freq": (11, 4), "max_update": 0, "max_epoch": 3})
    assert trainer.num_updates == 1 + 3 + 3


@pytest.mark.parametrize("number_format", ["bf16", "fp16"])
@pytest.mark.usefixtures("quick_half")
def test_half_precision_stays_close(tmp_path: Path, number_format: str) -> None:
    full = train(tmp_path / "full", optimization={"max_update": 20})
    half = train(tmp_path / "half", optimization={"max_update": 20}, common={number_format: True})
    assert half.num_updates == 20
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    start = torch.cat([p.detach().flatten() for p in ToyModel(0.0, 0).parameters()])
    moved, apart = (weights(full) - start).norm(), (weights(full) - weights(half)).norm()
    assert 0 < apart < 0.05 * moved


def test_a_broken_clip_is_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        trainer = train(tmp_path, task={"bad_clips": [4]}, optimization={"max_update": 0, "max_epoch": 2})
    assert trainer.skips.total == 2
    assert trainer.num_updates == 2 * (NUM_CLIPS // CLIPS_PER_BATCH) - 2
    assert {entry["step"] for entry in trainer.optimizer.state.values()} == {trainer.num_updates}
    assert weights(trainer).isfinite().all()
    skips = [record.message for record in caplog.records if "update skipped" in record.message]
    assert len(skips) == 2
    assert all("clips 4, 5 " in message for message in skips)
    lines = [record.message for record in caplog.records if record.name in ("train", "train_inner")]
    assert not any("nan" in line for line in lines)


def test_a_skipped_update_changes_nothing(tmp_path: Path) -> None:
    """Without the broken batch, the same batches give the same weights."""
    with_bad = make_trainer(tmp_path / "a", {"task": {"bad_clips": [4]}})
    without = make_trainer(tmp_path / "b")
    for micro_batches in list(with_bad.batches.updates(1)):
        with_bad.train_step(micro_batches)
    for micro_batches in list(without.batches.updates(1)):
        if 4 not in micro_batches[0][0].indices.tolist():
            without.train_step(micro_batches)
    assert torch.equal(weights(with_bad), weights(without))


def test_reading_outcomes_one_update_late_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As on a GPU: an update is taken for a good one until the next one is under way."""
    caplog.set_level(logging.INFO)
    limits = {"max_update": 0, "max_epoch": 2}
    options = {"task": {"bad_clips": [4, 20]}, "optimization": limits, "common": {"log_interval": 3}}
    at_once = make_trainer(tmp_path / "a", options)
    at_once.train()
    late = make_trainer(tmp_path / "b", options)
    late._settle_at_once = False
    late.train()
    assert torch.equal(weights(at_once), weights(late))
    assert (at_once.num_updates, at_once.skips.total) == (late.num_updates, late.skips.total) == (18, 4)
    assert [entry["step"] for entry in late.optimizer.state.values()] == [18] * 4
    assert at_once.log.meter.collect().sums == pytest.approx(late.log.meter.collect().sums)
    logged = [json.loads(r.message)["num_updates"] for r in caplog.records if r.name == "train_inner"]
    assert logged == ["3", "6", "9", "12", "15", "18"] * 2


def test_endless_skips_end_training_and_keep_the_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, optimization={"max_update": 5})
    before = load_checkpoint(tmp_path / "checkpoint_last.pt")["model"]
    with pytest.raises(TrainingError, match=r"20 updates in a row .* clips \d+"):
        train(tmp_path, optimization={"max_update": 50}, task={"bad_clips": range(NUM_CLIPS)})
    after = load_checkpoint(tmp_path / "checkpoint_last.pt")["model"]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="not finite"):
        trainer.save(end_of_epoch=False, score=None)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick_half")
def test_fp16_overflows_lower_the_scale_until_they_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    common = {"fp16": True, "fp16_init_scale": 2**20}
    with caplog.at_level(logging.INFO):
        trainer = train(tmp_path, common=common, task={"factor": 30.0}, optimization={"max_update": 5})
    assert trainer.num_updates == 5
    assert trainer.skips.total > 0
    assert trainer._scaler.scale == 2.0 ** (20 - trainer.skips.total)
    assert sum("loss scale" in r.message for r in caplog.records if r.name != "train_inner") == trainer.skips.total
    line = next(r.message for r in caplog.records if r.name == "train_inner")
    assert '"loss_scale"' in line


@pytest.mark.usefixtures("quick_half")
def test_fp16_that_always_overflows_says_what_to_do(tmp_path: Path) -> None:
    common = {"fp16": True, "fp16_init_scale": 2**20, "min_loss_scale": 2.0**18}
    with pytest.raises(TrainingError, match=r"--min-loss-scale.*--lr.*clips \d+"):
        train(tmp_path, common=common, task={"factor": 30.0})
    assert all(load_checkpoint(path)["trainer"]["num_updates"] == 0 for path in tmp_path.glob("*.pt"))


@pytest.mark.usefixtures("quick_half")
def test_fp16_losses_that_are_no_numbers_name_their_clips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A smaller scale does not cure them: they are named, and end training, whatever the scale is allowed to do."""
    common = {"fp16": True, "fp16_init_scale": 2**10, "threshold_loss_scale": 2.0**9}
    train(tmp_path / "one", common=common, task={"bad_clips": [4]}, optimization={"max_update": 10})
    assert any("loss nan" in message and "clips 4, 5 " in message for message in caplog.messages)
    with pytest.raises(TrainingError, match=r"20 updates in a row .* loss scale 512 -> 512 in clips \d+"):
        train(tmp_path / "all", common=common, task={"bad_clips": range(NUM_CLIPS)})


@pytest.mark.usefixtures("quick_half")
def test_a_growing_loss_scale_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(tmp_path, common={"fp16": True, "fp16_scale_window": 4}, optimization={"max_update": 6})
    assert "loss scale 128 -> 256 (normal: no overflow in the last 4 updates)" in caplog.messages


def test_a_parameter_set_free_later_joins_the_optimizer(tmp_path: Path) -> None:
    trainer = train(tmp_path, model={"freeze_updates": 4}, optimization={"max_update": 10})
    steps = {trainer.optimizer.parameters[i].shape: entry["step"] for i, entry in trainer.optimizer.state.items()}
    assert len(trainer.optimizer.state) == 4
    assert [trainer.optimizer.state[i]["step"] for i in range(4)] == [6, 6, 10, 10], steps
    assert trainer.model.updates_seen == list(range(10))


def test_updates_without_targets_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(self: Any, output: torch.Tensor, batch: Any) -> Loss:
        return Loss(output.sum() * 0.0, 0, {"ntokens": 0, "nsentences": 0, "absolute": 0.0})

    trainer = make_trainer(tmp_path)
    updates = trainer.batches.updates(1)
    trainer.train_step(next(updates))
    before = weights(trainer)
    with monkeypatch.context() as patch:
        patch.setattr(ToyCriterion, "forward", empty)
        trainer.train_step(next(updates))
    assert torch.equal(weights(trainer), before)
    assert (trainer.num_updates, trainer.skips.total) == (1, 1)


def test_fillers_count_for_nothing(tmp_path: Path) -> None:
    """An update with a filler equals the update without it, in weights and in what is logged."""
    with_filler, without = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b")
    data = ToyDataset()
    real, filler = data.batch([0, 1], 1), data.batch([2, 3], 2)
    with_filler.train_step([(real, True), (filler, False)])
    without.train_step([(real, True)])
    torch.testing.assert_close(weights(with_filler), weights(without), rtol=0, atol=0)
    one, other = with_filler.log.meter.collect(), without.log.meter.collect()
    assert one.sums == other.sums
    assert one.steps["loss"] == other.steps["loss"]
