"""Scores of hypotheses against closed forms and sums over all paths."""

from __future__ import annotations

import math
from itertools import groupby, product

import numpy as np
import pytest
import torch

from w2v.functional.label_scores import agreement, ctc_log_likelihoods, loops, tsallis_confidence


def test_the_likelihood_is_the_sum_over_all_paths() -> None:
    torch.manual_seed(3)
    log_probs = torch.randn(2, 5, 3).log_softmax(-1)
    lengths = torch.tensor([5, 3])
    labels = [[1, 1, 2], [2]]
    found = ctc_log_likelihoods(log_probs, lengths, labels)
    for clip, label in enumerate(labels):
        total = 0.0
        for path in product(range(3), repeat=int(lengths[clip])):
            if [symbol for symbol, _ in groupby(path) if symbol] == label:
                total += math.exp(sum(float(log_probs[clip, t, s]) for t, s in enumerate(path)))
        assert found[clip] == pytest.approx(math.log(total), abs=1e-5)


def test_no_symbols_no_frames_and_too_many_symbols() -> None:
    log_probs = torch.full((3, 2, 4), math.log(0.25))
    found = ctc_log_likelihoods(log_probs, torch.tensor([2, 2, 0]), [[], [1, 1], []])
    assert found[0] == pytest.approx(2 * math.log(0.25))
    assert found[1] == -math.inf
    assert found[2] == pytest.approx(0.0)
    assert ctc_log_likelihoods(torch.zeros(1, 0, 4), torch.tensor([0]), [[2]]) == [-math.inf]


@pytest.mark.parametrize("alpha", [0.33, 2.0])
def test_tsallis_on_hand_made_matrices(alpha: float) -> None:
    rows = np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]])
    found = tsallis_confidence(rows, alpha)
    assert found[0] == pytest.approx(1.0)
    assert found[1] == pytest.approx(0.0, abs=1e-12)
    # The formula for the third one, by hand.
    entropy = (1 - (0.7**alpha + 3 * 0.1**alpha)) / (1 - alpha)
    least = (1 - 4 ** (1 - alpha)) / (1 - alpha)
    wanted = (math.exp(entropy) - math.exp(least)) / (1 - math.exp(least))
    assert found[2] == pytest.approx(wanted)
    assert 0 < found[2] < 1


def test_agreement_is_symmetric_and_by_characters() -> None:
    assert agreement("ONE TWO", "ONE TOO") == agreement("ONE TOO", "ONE TWO") == pytest.approx(6 / 7)
    assert agreement("ONE", "") == agreement("", "ONE") == 0.0
    assert agreement("", "") == 1.0


def test_loops_are_the_most_frequent_four_words() -> None:
    assert loops(["A", "B", "C"]) == 0
    assert loops(["A", "B", "C", "D"]) == 1
    assert loops(["A", "A", "A", "A", "A", "A"]) == 3
    assert loops(["A", "B", "C", "D", "E", "A", "B", "C", "D"]) == 2
