"""One path through the frames of a clip, as both searches return it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FoundPath:
    """A path and its score.

    Attributes:
        score: total score.
        emission: sum of the log-probabilities of its frames.
        lm: the language model's log-probability, not weighed.
        symbols: symbol of each frame, with one silence before the first and one after the last: T + 2 of them.
        words: numbers of its words in the lexicon; empty where the search has none.
    """

    score: float
    emission: float
    lm: float
    symbols: list[int]
    words: list[int]
