"""The words of an utterance that is still being spoken: those that stay, and those that may change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from w2v.inference.result import Word


class StablePrefix:
    """Confirms words on which two successive hypotheses agree, with all words before them (LocalAgreement-2).

    A confirmed word is never taken back, so that a reader may act on it; the final text of the utterance may still
    differ from it, and replaces it.
    """

    def __init__(self) -> None:
        self.confirmed: list[Word] = []
        self._tentative: list[str] = []

    def update(self, words: Sequence[Word]) -> list[Word]:
        """Take the words of the next hypothesis; return the confirmed words, then the others."""
        rest = self._beyond(words)
        pairs = zip(rest, self._tentative, strict=False)
        agreed = [word for word, _ in takewhile(lambda pair: pair[0].text == pair[1], pairs)]
        self.confirmed += agreed
        rest = rest[len(agreed) :]
        self._tentative = [word.text for word in rest]
        return [*self.confirmed, *rest]

    def _beyond(self, words: Sequence[Word]) -> list[Word]:
        """Return the words after the confirmed ones: by number where these are unchanged, else by time."""
        size = len(self.confirmed)
        if [word.text for word in words[:size]] == [word.text for word in self.confirmed]:
            return list(words[size:])
        return [word for word in words if word.start >= self.confirmed[-1].end]
