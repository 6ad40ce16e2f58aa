"""Validation counts with a decoder beside the greedy reading."""

from __future__ import annotations

import torch
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.scoring import count_errors
from w2v.types import Hypothesis

DICTIONARY = Dictionary.from_symbols(["|", "A", "B"])


class FixedDecoder:
    def __init__(self) -> None:
        self.sums: list[Tensor] = []

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        self.sums.append(log_probs.exp().sum(-1))
        return [[Hypothesis(tokens=[], words=["AB", "A"], score=0.0)], []]


def test_a_decoder_counts_for_wer_and_the_greedy_reading_for_raw_wer() -> None:
    # Greedy: "AB" and "B|A"; references: "AB|A|" and "B|", with the end symbol and padding beside them.
    scores = 3 * torch.eye(7)[torch.tensor([[5, 0, 6, 6], [6, 4, 5, 5]])]
    targets = torch.tensor([[5, 6, 4, 5, 4], [6, 4, 2, 1, 1]])
    arguments = (scores, torch.tensor([4, 3]), targets, torch.tensor([5, 3]), DICTIONARY, "letter")
    greedy = count_errors(*arguments)
    assert greedy == dict(c_errors=4, c_total=7, w_errors=2, wv_errors=2, w_total=3)
    decoder = FixedDecoder()
    assert count_errors(*arguments, decoder) == {**greedy, "w_errors": 1}
    torch.testing.assert_close(decoder.sums[0], torch.ones(2, 4))


def test_an_unknown_symbol_is_never_right_and_phones_stay_apart() -> None:
    phones = Dictionary.from_symbols(["sh", "iy"])
    said = torch.full((1, 4, len(phones)), -5.0)
    for frame, symbol in enumerate([phones.unk, 0, phones.index("sh"), phones.index("iy")]):
        said[0, frame, symbol] = 5.0
    targets = torch.tensor([[phones.unk, phones.index("sh"), phones.index("iy")]])
    counts = count_errors(said, torch.tensor([4]), targets, torch.tensor([3]), phones, "letter")
    assert (counts["c_errors"], counts["c_total"]) == (1, 3)
    assert (counts["wv_errors"], counts["w_total"]) == (1, 3)
