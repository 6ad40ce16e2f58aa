"""Hypotheses of a beam search as rows of one array: a choice among them is one gather.

A frame of one clip holds about 50 hypotheses and 200 candidates. At that size the time goes into the number of numpy
calls, a microsecond each, and hardly into arithmetic; an array per field would take twelve calls where this takes one.
"""

from __future__ import annotations

import numpy as np

from w2v.array_types import FloatArray, IntArray

Hypotheses = IntArray
"""(N, NUM_COLUMNS) int64; `floats` is the same memory as float64."""

# Columns of a hypothesis, 8 bytes each: two floats, then integers.
SCORE = 0  # total score
LM = 1  # sum of the language model's log-probabilities; what was given in advance for words begun is included
SOURCE = 2  # row of the hypothesis that it continues
SYMBOL = 3  # symbol of the last frame
WORD = 4  # word that the last frame completed, or NO_WORD
NODE = 5  # node of the lexicon
STATE = 6  # state of the language model
HISTORY = 7  # hash of the clip and of all words or units so far
STEM = 8  # hash of history and node: hypotheses of equal stem differ in the last frame's symbol only
CLIP = 9  # place of the clip in the batch; rows of a clip lie together, best first
BASE = 10  # place of the clip's first symbol in the emissions of a frame
HOLD = 11  # symbol that continues the hypothesis when it is held for another frame
NUM_COLUMNS = 12

NO_WORD = -1
ODD = 0x1E3779B97F4A7C15


def floats(rows: Hypotheses) -> FloatArray:
    """Return the same memory as floats."""
    return rows.view(np.float64)


def hashes(number: int, seed: int) -> IntArray:
    """Return (number,) integers of 64 random bits, the same ones for the same seed."""
    drawn = np.random.Generator(np.random.PCG64(seed))
    return drawn.integers(-(1 << 63), 1 << 63, size=number, dtype=np.int64)


def longer(history: IntArray, word_hash: IntArray) -> IntArray:
    """Return hashes of histories with one word more; the products overflow, which is meant."""
    mixed: IntArray = (history ^ (history >> 29)) * ODD + word_hash
    return mixed
