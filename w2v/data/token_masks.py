"""Which tokens a masked language model is to predict, and what stands in their place (Devlin et al. 2019).

Spans of tokens are the vq-wav2vec paper's (Baevski et al. 2019b, section 3.3): a code says nearly all of its
neighbours in time, so single masked tokens are too easy. The draws, and their order, are the original's
(fairseq `MaskTokensDataset`): given its generator, the result is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from w2v.array_types import BoolArray, FloatArray, IntArray

Generator: TypeAlias = "np.random.Generator | np.random.RandomState"


@dataclass(frozen=True)
class TokenMaskSpec:
    """How tokens are masked.

    Attributes:
        prob: share of the tokens that starts of spans aim at, before overlaps (`--mask-prob`).
        leave_prob: of the predicted tokens, the share that is shown as it is.
        random_prob: of the predicted tokens, the share that is replaced by a random one.
        length: tokens per span.
        stdev: standard deviation of that length; 0: all spans are equal.
        mask: the token that stands for a hidden one.
        pad: what targets hold where nothing is predicted.
        weights: (V,) chances of random tokens; they sum to 1.
    """

    prob: float
    leave_prob: float
    random_prob: float
    length: int
    stdev: float
    mask: int
    pad: int
    weights: FloatArray


def replacement_weights(num_tokens: int, num_special: int, counts: IntArray | None = None) -> FloatArray:
    """Return (V,) chances of random tokens: none for the special ones, else equal, or by `counts`."""
    weights = np.ones(num_tokens) if counts is None else np.asarray(counts, dtype=np.float64).copy()
    weights[:num_special] = 0
    result: FloatArray = weights / weights.sum()
    return result


def stream_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of one item's draws, the original's: it depends on these three numbers alone.

    The remainder is taken in floating point, as there, so that most results are multiples of 64. Python's hash of
    whole numbers is the same in every process.
    """
    return int(hash((seed, epoch, index)) % 1e6)


def mask_tokens(
    tokens: IntArray, spec: TokenMaskSpec, rng: Generator
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Return what the model sees and what it is to predict, both (n,).

    Args:
        tokens: (n,) one item, with its `<s>` and `</s>`: these are masked, too.
        spec: how.
        rng: `RandomState(stream_seed(...))` for the original's masks up to 2022, `default_rng(...)` for later ones.
    """
    covered = _covered(len(tokens), spec, rng)
    targets = np.where(covered, tokens, spec.pad)
    source, hidden = tokens.copy(), covered
    other = spec.random_prob + spec.leave_prob
    randomised = np.zeros(len(tokens), dtype=np.bool_)
    if other > 0:
        # One uniform per token, masked or not: the stream does not depend on what is masked.
        shown = covered & (rng.random(len(tokens)) < other)
        if spec.random_prob == 0:
            kept = shown
        elif spec.leave_prob == 0:
            kept, randomised = randomised, shown
        else:
            kept = shown & (rng.random(len(tokens)) < spec.leave_prob / other)
            randomised = shown & ~kept
        hidden = covered & ~kept
    source[hidden] = spec.mask
    if num_random := int(randomised.sum()):
        source[randomised] = rng.choice(len(spec.weights), num_random, p=spec.weights)
    return source, targets


def _covered(size: int, spec: TokenMaskSpec, rng: Generator) -> BoolArray:
    """Draw the tokens to predict: starts of spans first, then their lengths."""
    # Rounded up or down at random, so that the mean is right.
    num_spans = int(spec.prob * size / float(spec.length) + rng.random())
    starts = rng.choice(size, num_spans, replace=False)
    lengths = np.full(num_spans, spec.length, dtype=np.int64)
    if spec.stdev > 0:
        lengths = np.maximum(np.rint(rng.normal(spec.length, spec.stdev, size=num_spans)), 0).astype(np.int64)
    # +1 where a span begins, -1 where it ends: covered where the sum is positive. Overlaps merge, the end cuts.
    edges = np.zeros(size + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, np.minimum(starts + lengths, size), -1)
    result: BoolArray = edges.cumsum()[:size] > 0
    return result
