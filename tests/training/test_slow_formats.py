"""`--fp16` where a CPU is slow in it: float32 is trained in, and the loss scale waits in the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from child import final_state, train_in_children
from toy_training import make_trainer

from w2v.functional import products

COMMON = {"fp16": True, "fp16_scale_window": 2}


def speeds(*, bf16: float, fp16: float) -> Any:
    known = {torch.float32: 10.0, torch.bfloat16: bf16, torch.float16: fp16}
    return lambda dtype, training: known[dtype]


def train(folder: Path, max_update: int, common: dict[str, Any]) -> Any:
    trainer = make_trainer(folder, {"common": common, "optimization": {"max_update": max_update}})
    trainer.train()
    return trainer


def test_a_run_keeps_its_loss_scale_while_a_cpu_computes_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Five updates in float16, five in float32, five in float16: the middle ones are those without the flag."""
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    monkeypatch.setattr(products, "product_speed", speeds(bf16=10, fp16=10))
    for folder in (ours, plain):
        assert train(folder, 5, COMMON).step.half == torch.float16
    scale = final_state(ours)["scaler"]
    assert scale["scale"] > 128

    monkeypatch.setattr(products, "product_speed", speeds(bf16=1, fp16=1))
    caplog.clear()
    slow = train(ours, 10, COMMON)
    assert (slow.step.half, slow.step.loss_scale) == (None, 1.0)
    assert [r.levelname for r in caplog.records if r.getMessage().startswith("--fp16: this CPU is slow")] == ["WARNING"]
    assert not any("loss_scale" in message for message in caplog.messages)
    train(plain, 10, {})
    weights, expected = final_state(ours)["model"], final_state(plain)["model"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert final_state(ours)["scaler"] == scale

    monkeypatch.setattr(products, "product_speed", speeds(bf16=10, fp16=10))
    again = train(ours, 15, COMMON)
    assert (again.step.half, again.num_updates) == (torch.float16, 15)
    assert final_state(ours)["scaler"]["attempt"] == scale["attempt"] + 5


def test_bfloat16_where_that_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of `--bf16`, and no loss scale is used."""
    monkeypatch.setattr(products, "product_speed", speeds(bf16=30, fp16=1))
    for name, common in (("asked", {"bf16": True}), ("instead", {"fp16": True})):
        trainer = train(tmp_path / name, 3, common)
        assert (trainer.step.half, trainer.step.scaler) == (torch.bfloat16, None)
    asked, instead = (final_state(tmp_path / name)["model"] for name in ("asked", "instead"))
    assert all(torch.equal(instead[name], tensor) for name, tensor in asked.items())


def test_rank_0_decides_for_all(tmp_path: Path) -> None:
    """Ranks that measure otherwise (another CPU, another load) compute in the format of rank 0."""

    def with_speeds(quick: float) -> Any:
        return lambda trainer: setattr(products, "product_speed", speeds(bf16=1, fp16=quick))

    options = {"common": COMMON, "optimization": {"max_update": 3}}
    ended = train_in_children(tmp_path, options, with_speeds(99), others=with_speeds(1))
    assert [child.code for child in ended] == [0, 0], ended
    assert "computing in float32, without a loss scale" in ended[0].log
    assert "loss_scale" not in ended[0].log
    assert final_state(tmp_path)["scaler"]["attempt"] == 0
