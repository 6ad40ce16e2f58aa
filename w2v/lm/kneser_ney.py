"""Interpolated modified Kneser-Ney smoothing: from counts of n-grams to an n-gram model.

Chen and Goodman (1998); Heafield et al. (2013), whose `lmplz` gives the same numbers. Shorter n-grams are counted by
how many different words precede them, not by how often they occur, except where they begin a sentence; a discount
that depends on the count is taken off each, and goes to the distribution of the next shorter context.

Differs from `lmplz` for texts of a few lines: that takes the last n-gram of each order at its plain count when it
estimates discounts, and prunes a rare `</s>` without taking its probability away.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat

import numpy as np
import numpy.typing as npt

from w2v.array_types import FloatArray, IntArray
from w2v.errors import ConfigError
from w2v.lm.ngram_counts import RESERVED, START_NUMBER, NgramCounts, TextCounts
from w2v.lm.ngram_table import BackoffModel, NgramTable

logger = logging.getLogger(__name__)

MAX_ORDER = 6  # of KenLM as it is published
FALLBACK = (0.5, 1.0, 1.5)
LOWEST = 1e-99

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Discounts:
    """What is taken off counts of one order.

    Attributes:
        amounts: of a count of 0 (nothing), 1, 2, and of 3 and more.
        is_fallback: whether the text was too small to estimate them.
    """

    amounts: tuple[float, float, float, float]
    is_fallback: bool

    def of(self, counts: IntArray) -> FloatArray:
        """Return the discount of each count."""
        return np.array(self.amounts)[np.minimum(counts, 3)]


def estimate(
    text: TextCounts,
    *,
    prune: Sequence[int] = (),
    limit: Collection[str] | None = None,
    fallback: Sequence[float] = FALLBACK,
) -> BackoffModel:
    """Estimate an n-gram model.

    Args:
        text: counts of its n-grams, up to the order of the model.
        prune: for each order, n-grams that occur at most so often are left out; the last number holds for all longer
            ones. Nothing is left out where it is empty.
        limit: n-grams with other words than these are left out.
        fallback: discounts of counts 1, 2 and 3+ where an order has too few n-grams to estimate its own.

    Raises:
        ConfigError: `prune` falls, or is longer than the order of the model.
    """
    adjusted = adjusted_counts(text.orders)
    kept = _kept(text, prune, limit)
    uniform = 1.0 / (np.count_nonzero(kept[0]) - 1)  # `<unk>` is a word like any other, `<s>` is none
    lower = np.array([uniform])
    probabilities: list[FloatArray] = []
    backoffs: list[FloatArray] = []
    for order, (counts, count, keep) in enumerate(zip(text.orders, adjusted, kept, strict=True), start=1):
        discounts = estimate_discounts(count, order, fallback)
        discount = discounts.of(count)
        totals = np.bincount(counts.contexts, weights=count, minlength=len(lower))
        # Where n-grams are left out, all of their counts goes to shorter contexts, not just the discount.
        freed = np.bincount(counts.contexts, weights=np.where(keep, discount, count), minlength=len(lower))
        weights = np.divide(freed, totals, out=np.ones(len(totals)), where=totals > 0)
        own = (count - discount) / totals[counts.contexts]
        lower = own + weights[counts.contexts] * lower[counts.suffixes]
        if order == 1:
            lower[START_NUMBER] = 1.0
        probabilities.append(lower)
        backoffs.append(weights)
        logger.info("%d-grams: %s", order, _describe(discounts, keep))
    return _model(text, kept, probabilities, [*backoffs[1:], np.ones(len(lower))])


def adjusted_counts(orders: Sequence[NgramCounts]) -> list[IntArray]:
    """Return what n-grams count for: how many different words precede them; of the longest, how often they occur.

    Nothing precedes an n-gram that begins with `<s>`, so it counts as often as it occurs. `<s>` itself is never
    predicted and counts for nothing.
    """
    adjusted = []
    for shorter, longer in pairwise(orders):
        preceding = np.bincount(longer.suffixes, minlength=len(shorter.counts))
        adjusted.append(np.where(shorter.starts, shorter.counts, preceding))
    adjusted.append(orders[-1].counts.copy())
    adjusted[0][START_NUMBER] = 0
    return adjusted


def estimate_discounts(counts: IntArray, order: int, fallback: Sequence[float]) -> Discounts:
    """Estimate the discounts of an order from how many n-grams count 1, 2, 3 and 4.

    Equation 26 of Chen and Goodman (1998). It needs n-grams of count 1, 2 and 3; in small texts, and in texts of
    letters, some order may lack them, or they may be so unusual that a discount is negative.
    """
    _, one, two, three, four = np.bincount(np.minimum(counts, 5), minlength=6)[:5].tolist()
    if one and two and three:
        share = one / (one + 2 * two)
        amounts = (0.0, 1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three)
        if min(amounts) >= 0:
            return Discounts(amounts, is_fallback=False)
    first, second, third = fallback
    return Discounts((0.0, first, second, third), is_fallback=True)


def check_prune(prune: Sequence[int], order: int) -> None:
    """Check the numbers of `--prune` for a model of an order.

    Raises:
        ConfigError: there are too many, or they fall.
    """
    if len(prune) > order:
        raise ConfigError(f"--prune: {len(prune)} numbers for a model of order {order}")
    if any(later < earlier for earlier, later in pairwise(prune)):
        # A longer n-gram would stay without the shorter ones that it is found by.
        raise ConfigError(f"--prune: each number must be at least the one before, got {' '.join(map(str, prune))}")


def _kept(text: TextCounts, prune: Sequence[int], limit: Collection[str] | None) -> list[Flags]:
    check_prune(prune, len(text.orders))
    thresholds = [*prune, *repeat(prune[-1] if prune else 0, len(text.orders) - len(prune))]
    allowed = np.ones(len(text.vocabulary), dtype=bool)
    if limit is not None:
        allowed = np.array([word in limit for word in text.vocabulary])
    inside = np.ones(1, dtype=bool)
    kept: list[Flags] = []
    for counts, threshold in zip(text.orders, thresholds, strict=True):
        inside = inside[counts.contexts] & allowed[counts.words]
        keep = inside & (counts.counts > threshold)
        if not kept:
            inside[: len(RESERVED)] = keep[: len(RESERVED)] = True
            allowed = inside
        kept.append(keep)
    return kept


def _model(
    text: TextCounts, kept: Sequence[Flags], probabilities: Sequence[FloatArray], backoffs: Sequence[FloatArray]
) -> BackoffModel:
    """Return what is kept, renumbered, as logarithms."""
    vocabulary = [word for word, keep in zip(text.vocabulary, kept[0], strict=True) if keep]
    new_words = np.cumsum(kept[0]) - 1
    new_rows = np.zeros(1, dtype=np.int64)
    tables = []
    for counts, keep, probability, backoff in zip(text.orders, kept, probabilities, backoffs, strict=True):
        tables.append(
            NgramTable(
                vocabulary_size=len(vocabulary),
                contexts=new_rows[counts.contexts[keep]],
                words=new_words[counts.words[keep]],
                log_probs=np.minimum(np.log10(np.maximum(probability[keep], LOWEST)), 0.0),
                backoffs=np.log10(np.maximum(backoff[keep], LOWEST)),
            )
        )
        new_rows = np.cumsum(keep) - 1
    return BackoffModel(vocabulary, tables)


def _describe(discounts: Discounts, keep: Flags) -> str:
    number = np.count_nonzero(keep)
    one, two, three = discounts.amounts[1:]
    left_out = f" of {len(keep)}" if number < len(keep) else ""
    why = "; too few to estimate them, so the fallback" if discounts.is_fallback else ""
    return f"{number}{left_out}, discounts {one:.6g} {two:.6g} {three:.6g}{why}"
