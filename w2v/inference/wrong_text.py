"""Whether a text is what was said: an aligner finds times for any text, so only confidence tells a wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from w2v.errors import listed
from w2v.inference.result import Word
from w2v.inference.text_alignment import TextAlignment

MIN_CONFIDENCE = 0.1  # median over letters: words that were not said lie below, all others far above
FEWEST_SPELLED = 0.7  # of the letters of a text in the model's language
MOST_NAMED = 20  # characters in a message


@dataclass(frozen=True)
class WeakStretch:
    """Successive words that were hardly heard.

    Attributes:
        words: in order.
        confidence: their mean confidence.
    """

    words: tuple[Word, ...]
    confidence: float

    def __str__(self) -> str:
        text = " ".join(word.text for word in self.words)
        shown = text if len(text) <= 80 else f"{text[:50]} ... {text[-25:]}"
        return f"{self.words[0].start:.2f}-{self.words[-1].end:.2f} s, confidence {self.confidence:.2f}: {shown}"


def weakest_stretch(words: Sequence[Word], threshold: float) -> WeakStretch | None:
    """Return the successive words whose confidence lies below a threshold by the largest sum; None: no word does.

    One word that was misheard weighs less than a sentence that was not said (Kadane's largest sum of a part).

    Args:
        words: of one recording; those that were not heard for themselves count as their neighbours do.
        threshold: such as half of the median confidence.
    """
    best_sum, best = 0.0, (0, 0)
    start, total = 0, 0.0
    for place, word in enumerate(words):
        if total <= 0:
            start, total = place, 0.0
        total += threshold - word.confidence
        if total > best_sum:
            best_sum, best = total, (start, place + 1)
    found = tuple(words[slice(*best)])
    return WeakStretch(found, sum(word.confidence for word in found) / len(found)) if found else None


def likely_cause(alignment: TextAlignment) -> str:
    """Return why a text as a whole was not heard, as far as it can be seen."""
    spelling = alignment.spelling
    if spelling.num_spelled < FEWEST_SPELLED * spelling.num_letters:
        return (
            f"the model's dictionary lacks {spelling.num_letters - spelling.num_spelled} of its {spelling.num_letters} "
            "letters and numerals, so that it is in another language or script than the model's"
        )
    return "it is the text of another recording, or in a language that the model does not know"


def named_characters(counts: Counter[str]) -> str:
    """Return characters with their counts, the most frequent first, for a message."""
    return listed([f"{character!r} {count}" for character, count in counts.most_common()], MOST_NAMED)
