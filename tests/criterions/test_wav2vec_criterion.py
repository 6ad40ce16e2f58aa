"""The contrastive loss against its formula; recorded values are in tests/parity/test_wav2vec2.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from w2v.config import build_config
from w2v.criterions.wav2vec_criterion import Wav2VecCriterion, Wav2VecCriterionConfig
from w2v.errors import ConfigError
from w2v.types import AudioBatch, ContrastiveOutput, Loss

BATCH = AudioBatch(torch.zeros(2, 10), torch.tensor([10, 10]), torch.arange(2), seed=1)


def run(output: ContrastiveOutput, **options: Any) -> Loss:
    return Wav2VecCriterion(build_config(Wav2VecCriterionConfig, options, "test"))(output, BATCH)


def logits() -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_infonce_is_cross_entropy_of_class_0() -> None:
    loss = run(ContrastiveOutput(logits()), infonce=True)
    expected = F.cross_entropy(logits(), torch.zeros(5, dtype=torch.long), reduction="sum")
    torch.testing.assert_close(loss.value, expected)
    assert loss.sample_size == 5
    assert loss.sums["count"] == 5
    assert int(loss.sums["correct"]) == int((logits().argmax(1) == 0).sum())


def test_binary_is_weighted_binary_cross_entropy() -> None:
    targets = torch.zeros(5, 4)
    targets[:, 0] = 1
    weights = torch.full((5, 4), 0.25)
    weights[:, 0] = 1
    expected = F.binary_cross_entropy_with_logits(logits(), targets, weights, reduction="sum")
    loss = run(ContrastiveOutput(logits(), negative_weight=0.25))
    torch.testing.assert_close(loss.value, expected)
    assert loss.sample_size == 5
    assert "correct" not in loss.sums


@pytest.mark.parametrize("infonce", [True, False])
def test_negatives_that_equal_their_positive_count_for_nothing(infonce: bool) -> None:
    masked = logits()
    masked[1:, 2] = -torch.inf
    masked[4, 1:] = -torch.inf
    masked.requires_grad_()
    loss = run(ContrastiveOutput(masked), infonce=infonce)
    assert torch.isfinite(loss.value)
    loss.value.backward()
    assert torch.isfinite(masked.grad).all()  # type: ignore[arg-type]
    fewer = run(ContrastiveOutput(logits()[1:4, [0, 1, 3]]), infonce=infonce)
    rest = run(ContrastiveOutput(masked[1:4].detach()), infonce=infonce)
    torch.testing.assert_close(rest.value, fewer.value)


def test_all_equal_rows_are_not_correct_and_all_masked_ones_are() -> None:
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, -torch.inf, -torch.inf], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert int(run(ContrastiveOutput(rows), infonce=True).sums["correct"]) == 2


def penalised() -> ContrastiveOutput:
    penalties = {"diversity": torch.tensor(0.5), "features_pen": torch.tensor(3.0)}
    stats: dict[str, torch.Tensor | float] = {"prob_perplexity": torch.tensor(7.0), "temp": 1.9, "other": 1.0}
    return ContrastiveOutput(logits(), penalties, stats)


def test_penalties_are_weighted_and_count_once_per_prediction() -> None:
    plain = run(penalised(), infonce=True).value
    loss = run(penalised(), infonce=True, loss_weights="[0.1, 10]")
    torch.testing.assert_close(loss.value, plain + 5 * (0.1 * 0.5 + 10 * 3.0))
    assert [float(loss.sums[f"loss_{i}"]) for i in (1, 2)] == pytest.approx([0.25, 150])
    repeated = run(penalised(), infonce=True, loss_weights="[2]")
    torch.testing.assert_close(repeated.value, plain + 5 * 2 * 3.5)
    assert "loss_0" not in run(penalised(), infonce=True).sums


def test_wrong_number_of_weights() -> None:
    with pytest.raises(ConfigError, match=r"--loss-weights must hold 1 or 2 numbers \(for diversity, features_pen\)"):
        run(penalised(), loss_weights="[1, 2, 3]")


def test_logged_values() -> None:
    totals: dict[str, float] = {"loss": 0.0, "sample_size": 0.0}
    losses = [run(penalised(), infonce=True, loss_weights=[0.1, 10], log_keys='["temp","prob_perplexity"]')] * 3
    for loss in losses:
        totals["loss"] += float(loss.value)
        totals["sample_size"] += float(loss.sample_size)
        for key, value in loss.sums.items():
            totals[key] = totals.get(key, 0.0) + float(value)
    values = Wav2VecCriterion.summarize(totals)
    assert list(values) == [
        "loss", "ntokens", "nsentences", "temp", "prob_perplexity", "loss_0", "loss_1", "loss_2", "accuracy",
    ]  # fmt: skip
    one = losses[0]
    assert values["loss"] == pytest.approx(float(one.value) / 5 / math.log(2))
    assert values["loss"] == pytest.approx(values["loss_0"] + values["loss_1"] + values["loss_2"])
    assert (values["temp"], values["prob_perplexity"]) == pytest.approx((1.9, 7.0))
    assert values["accuracy"] == pytest.approx(float(one.sums["correct"]) / 5)


def test_no_predictions() -> None:
    empty = ContrastiveOutput(torch.zeros(0, 4, requires_grad=True), {"features_pen": torch.tensor(1.0)})
    for infonce in (True, False):
        loss = run(empty, infonce=infonce, loss_weights=[10])
        assert loss.value.item() == 0
        assert loss.sample_size == 0
        values = Wav2VecCriterion.summarize({"loss": 0.0, "sample_size": 0.0, **loss.sums})  # type: ignore[dict-item]
        assert values["loss"] == 0


def test_half_precision_logits_are_summed_in_float32() -> None:
    half = torch.full((3, 4), 6e4, dtype=torch.float16)
    loss = run(ContrastiveOutput(half), infonce=True)
    assert loss.value.dtype == torch.float32
    assert loss.value.item() == pytest.approx(3 * math.log(4), rel=1e-5)
