"""Hypotheses of a beam search as columns of one array: a choice among them is one gather.

A frame of one clip holds about 50 hypotheses and 200 candidates. At that size the time goes into the number of numpy
calls, a microsecond each, and hardly into arithmetic; an array per field would take twelve calls where this takes one.
A field is one row of that array, so its numbers lie side by side, and numpy reads them without a copy.
"""

from __future__ import annotations

import numpy as np

from w2v.array_types import FloatArray, IntArray

Hypotheses = IntArray
"""(NUM_FIELDS, N) int64; `floats` is the same memory as float64."""

# Fields of a hypothesis, 8 bytes each: two floats, then integers. The first six pass on to what continues it.
SCORE = 0  # total score
LM = 1  # sum of the language model's log-probabilities; what was given in advance for words begun is included
STATE = 2  # state of the language model
HISTORY = 3  # hash of the clip and of all words or units so far
CLIP = 4  # place of the clip in the batch; hypotheses of a clip lie together, best first
BASE = 5  # place of the clip's first symbol in the emissions of a frame
SOURCE = 6  # number of the hypothesis that it continues
SYMBOL = 7  # symbol of the last frame
WORD = 8  # word that the last frame completed, or NO_WORD
NODE = 9  # node of the lexicon
STEM = 10  # hash of history and node: hypotheses of equal stem differ in the last frame's symbol only
KEY = 11  # hash of stem and symbol: candidates of equal key differ in nothing but their past
NUM_FIELDS = 12

NO_WORD = -1
ODD = 0x1E3779B97F4A7C15


def floats(hypotheses: Hypotheses) -> FloatArray:
    """Return the same memory as floats."""
    return hypotheses.view(np.float64)


def hashes(number: int, seed: int) -> IntArray:
    """Return (number,) integers of 64 random bits, the same ones for the same seed."""
    drawn = np.random.Generator(np.random.PCG64(seed))
    return drawn.integers(-(1 << 63), 1 << 63, size=number, dtype=np.int64)


def longer(history: IntArray, word_hash: IntArray) -> IntArray:
    """Return hashes of histories with one word more; the products overflow, which is meant."""
    mixed: IntArray = history * ODD + word_hash
    return mixed
