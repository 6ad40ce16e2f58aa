"""The CTC loss against the sum over all alignments; recorded values are in tests/parity/test_ctc.py."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from w2v.config import build_config
from w2v.criterions.ctc import CtcCriterion, CtcCriterionConfig, ctc_loss
from w2v.errors import ConfigError, DataError
from w2v.types import AudioBatch, CtcOutput


def brute_force(log_probs: torch.Tensor, target: list[int]) -> float:
    """Sum the probability of every path of symbols that reads as `target`."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=log_probs.shape[0]):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol != 0] == target:
            total += math.exp(sum(log_probs[t, symbol].item() for t, symbol in enumerate(path)))
    return -math.log(total) if total > 0 else math.inf


def case() -> tuple[CtcOutput, AudioBatch, list[list[int]]]:
    logits = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    targets = [[1, 2], [2, 2], [1]]
    padded = torch.tensor([[1, 2], [2, 2], [1, 1]])
    output = CtcOutput(logits, torch.tensor([5, 4, 2]))
    source = torch.zeros(3, 1)
    batch = AudioBatch(source, torch.tensor([1, 1, 1]), torch.arange(3), 1, padded, torch.tensor([2, 2, 1]))
    return output, batch, targets


def test_equals_the_sum_over_alignments() -> None:
    output, batch, targets = case()
    expected = sum(
        brute_force(output.logits[i, :n].log_softmax(-1), targets[i]) for i, n in enumerate(output.lengths.tolist())
    )
    loss = CtcCriterion(CtcCriterionConfig())(output, batch)
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)
    assert loss.sample_size == 5
    assert CtcCriterion(CtcCriterionConfig(sentence_avg=True))(output, batch).sample_size == 3


def test_impossible_alignments() -> None:
    output, batch, targets = case()
    short = CtcOutput(output.logits.requires_grad_(), torch.tensor([5, 2, 0]))  # '2 2' needs three frames
    assert CtcCriterion(CtcCriterionConfig())(short, batch).value.item() == math.inf
    loss = CtcCriterion(CtcCriterionConfig(zero_infinity=True))(short, batch)
    possible = brute_force(output.logits[0].detach().log_softmax(-1), targets[0])
    assert loss.value.item() == pytest.approx(possible, rel=1e-5)
    loss.value.backward()
    gradient = output.logits.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert not gradient[1:].any()


def test_half_precision_scores_are_normalised_in_float32() -> None:
    _, batch, _ = case()
    assert batch.targets is not None
    assert batch.target_lengths is not None
    logits = torch.full((3, 5, 3), 6e4, dtype=torch.float16)
    lengths = torch.tensor([5, 4, 2])
    loss = ctc_loss(logits, lengths, batch.targets, batch.target_lengths, zero_infinity=False)
    same = ctc_loss(torch.zeros(3, 5, 3), lengths, batch.targets, batch.target_lengths, zero_infinity=False)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, same)


def test_logged_values() -> None:
    sums = {"loss": 30.0, "sample_size": 3.0, "ntokens": 5.0, "nsentences": 3.0}
    values = CtcCriterion.summarize(sums)
    assert list(values) == ["loss", "ntokens", "nsentences", "nll_loss"]
    assert values["loss"] == pytest.approx(10 / math.log(2))
    assert values["nll_loss"] == pytest.approx(6 / math.log(2))
    assert "nll_loss" not in CtcCriterion.summarize({**sums, "sample_size": 5.0})


def test_options() -> None:
    config = build_config(CtcCriterionConfig, {"wer_args": '("lm/a.arpa","lm/lexicon.lst",2,-1)'}, "x")
    assert config.wer_args == ("lm/a.arpa", "lm/lexicon.lst", 2.0, -1.0)
    with pytest.raises(ConfigError, match="--wer-args: must be"):
        build_config(CtcCriterionConfig, {"wer_args": '("lm", 2)'}, "x")
    output, batch, _ = case()
    with pytest.raises(DataError, match="--labels"):
        CtcCriterion(CtcCriterionConfig())(output, AudioBatch(batch.source, batch.lengths, batch.indices, 1))
