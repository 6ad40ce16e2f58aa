"""Sums of log-probabilities, and the figures that follow from them."""

from __future__ import annotations

import math

import pytest
import torch

from w2v.criterions.base import CRITERIONS
from w2v.criterions.cross_entropy import CrossEntropyConfig
from w2v.types import LanguageModelOutput, TextBatch


@pytest.mark.parametrize("name", ["cross_entropy", "adaptive_loss"])
@pytest.mark.parametrize("sentence_avg", [False, True])
def test_loss_and_perplexity(name: str, sentence_avg: bool) -> None:
    criterion = CRITERIONS.get(name).cls(CrossEntropyConfig(sentence_avg=sentence_avg))
    source = torch.zeros(2, 5, dtype=torch.int64)
    batch = TextBatch(source, source, torch.tensor([5, 3]), torch.tensor([0, 1]), 1)
    loss = criterion(LanguageModelOutput(torch.full((8,), -math.log(4))), batch)
    assert loss.value.item() == pytest.approx(8 * math.log(4))
    assert loss.sample_size == (2 if sentence_avg else 8)
    values = criterion.summarize({"loss": loss.value.item(), "sample_size": loss.sample_size, **loss.sums})
    assert values["nll_loss"] == pytest.approx(2)
    assert values["loss"] == pytest.approx(8 if sentence_avg else 2)
    assert values["ppl"] == pytest.approx(4)
    assert math.isfinite(criterion.summarize({"loss": 1e9, "sample_size": 1, "ntokens": 1, "nsentences": 1})["ppl"])
