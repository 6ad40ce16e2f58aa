"""Times of words, on readings of which it is known where each word lies."""

from __future__ import annotations

import pytest
import torch

from w2v.data.dictionary import Dictionary
from w2v.data.post_process import post_process, word_of_each
from w2v.errors import ConfigError
from w2v.inference.word_times import WordTime, word_times
from w2v.types import Hypothesis

DICTIONARY = Dictionary.from_symbols(["|", "A", "B"])
BLANK, END, A, B = 0, 4, 5, 6
PATH = [BLANK, A, A, BLANK, B, END, END, BLANK, B, B, B, BLANK, END]


def emissions(path: list[int], peak: float = 0.9) -> torch.Tensor:
    rest = (1 - peak) / (len(DICTIONARY) - 1)
    return torch.where(torch.nn.functional.one_hot(torch.tensor(path), len(DICTIONARY)) > 0, peak, rest).log()


@pytest.mark.parametrize(
    ("units", "symbol", "places"),
    [
        ("| A B | | B |", "letter", [None, 0, 0, None, None, 1, None]),
        ("\u2581the re \u2581is", "sentencepiece", [0, 0, 1]),
        ("\u2581 the re \u2581 is", "sentencepiece", [None, 0, 0, None, 1]),
        ("fo@@ o@@ d is", "@@ ", [0, 0, 0, 1]),
        ("a b_EOW c_EOW", "_EOW", [0, 0, 1]),
        ("one two", None, [0, 1]),
    ],
)
def test_which_word_a_symbol_is_part_of(units: str, symbol: str | None, places: list[int | None]) -> None:
    assert word_of_each(units.split(), symbol) == places
    words = post_process(units, symbol).split()
    assert {place for place in places if place is not None} == set(range(len(words)))


def test_words_begin_and_end_with_their_symbols() -> None:
    hypothesis = Hypothesis([A, B, END, B, END], ["AB", "B"], 0.0, timesteps=[1, 4, 5, 8, 12])
    first, second = word_times(hypothesis, emissions(PATH), DICTIONARY, "letter")
    assert (first.word, first.start, first.end) == ("AB", 1, 5)
    assert (second.word, second.start, second.end) == ("B", 8, 11)
    assert first.confidence == pytest.approx(0.9)


def test_silence_around_and_a_word_cut_off_at_the_end() -> None:
    # flashlight puts a silence before the first frame, and a search may end within a word.
    hypothesis = Hypothesis([END, A, B, END, B], ["AB"], 0.0, timesteps=[0, 1, 4, 5, 8])
    assert [(w.word, w.start, w.end) for w in word_times(hypothesis, emissions(PATH), DICTIONARY, "letter")] == [
        ("AB", 1, 5)
    ]


def test_words_that_are_not_marked_off_share_their_time() -> None:
    hypothesis = Hypothesis([A, B, B], ["AB", "B"], 0.0, timesteps=[1, 4, 8])
    found = word_times(hypothesis, emissions(PATH), DICTIONARY, "letter")
    assert [(w.word, w.start, w.end) for w in found] == [("AB", 1, 6), ("B", 6, 11)]
    assert found[0].confidence == pytest.approx(0.9)


def test_no_words_and_no_times() -> None:
    assert word_times(Hypothesis([], [], 0.0), emissions(PATH), DICTIONARY, "letter") == []
    assert word_times(Hypothesis([END], [], 0.0, timesteps=[3]), emissions(PATH), DICTIONARY, "letter") == []
    # Words without symbols have no time of their own.
    assert word_times(Hypothesis([], ["A"], 0.0), emissions(PATH), DICTIONARY, "letter") == [WordTime("A", 0, 0, 0.0)]
    with pytest.raises(ConfigError, match="does not tell the frames"):
        word_times(Hypothesis([A], ["A"], 0.0), emissions(PATH), DICTIONARY, "letter")
