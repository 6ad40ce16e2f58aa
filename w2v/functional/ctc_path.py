"""Greedy CTC decoding, and how long each symbol of a hypothesis lasts (Graves et al. 2006, section 3.2).

Vectorised over clips and frames; beam search lives in `decoders`. A decoder says where a symbol begins. Until the next
one begins there are repetitions of it and then blanks; the most likely place for the change is found here, so that the
best path of CTC gets exactly its own runs of equal frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.types import BLANK


@dataclass(frozen=True)
class BestPath:
    """Greedy reading of one clip.

    Attributes:
        tokens: symbols without blanks, one per run of equal frames.
        timesteps: first frame of each token.
        score: sum over frames of the largest value.
    """

    tokens: list[int]
    timesteps: list[int]
    score: float


def best_paths(scores: Tensor, lengths: Tensor, blank: int = BLANK) -> list[BestPath]:
    """Collapse the best symbol of each frame: repetitions become one, blanks are dropped.

    Args:
        scores: (B, T, V) logits or log-probabilities.
        lengths: (B,) true frames per clip, in [0, T]; frames beyond are ignored. The original's `infer.py` of 2020
            read them too, so that its output depended on the batch.
        blank: the symbol of "no output".
    """
    if not scores.shape[0]:
        return []
    if not scores.shape[1]:
        return [BestPath([], [], 0.0) for _ in range(scores.shape[0])]
    values, symbols = (part.cpu() for part in scores.detach().float().max(dim=-1))
    inside = torch.arange(symbols.shape[1]) < lengths.cpu().unsqueeze(1)
    starts = torch.ones_like(inside)
    starts[:, 1:] = symbols[:, 1:] != symbols[:, :-1]
    kept = inside & starts & (symbols != blank)
    totals = values.double().masked_fill(~inside, 0.0).sum(dim=1).tolist()
    counts = kept.sum(dim=1).tolist()
    # Boolean indexing walks row by row, so the tokens of a clip stay together.
    tokens = torch.split(symbols[kept], counts)
    frames = torch.split(kept.nonzero()[:, 1], counts)
    return [BestPath(t.tolist(), f.tolist(), total) for t, f, total in zip(tokens, frames, totals, strict=True)]


def token_ends(
    log_probs: npt.NDArray[np.float32], tokens: Sequence[int], starts: Sequence[int], blank: int = BLANK
) -> list[int]:
    """Return the frame after the last one of each symbol.

    Args:
        log_probs: (T, V) of one clip.
        tokens: symbols without blanks and repetitions.
        starts: first frame of each.
        blank: the symbol of "no output".
    """
    ends = []
    for token, start, following in zip(tokens, starts, [*starts, len(log_probs)][1:], strict=True):
        # Held up to frame e, the symbol gains the sum of these over start + 1 .. e against blanks.
        gains = log_probs[start + 1 : following, token] - log_probs[start + 1 : following, blank]
        sums = np.concatenate([[0.0], np.cumsum(gains, dtype=np.float64)])
        ends.append(start + 1 + int(sums.argmax()))
    return ends


def token_confidences(
    log_probs: npt.NDArray[np.floating],
    tokens: Sequence[int] | npt.NDArray[np.integer],
    starts: Sequence[int] | npt.NDArray[np.integer],
    ends: Sequence[int] | npt.NDArray[np.integer],
) -> list[float]:
    """Return the mean probability that each symbol has in its own frames.

    Of several ways (peak or mean over frames; mean, least or product over symbols) the mean of means has the best
    normalised cross entropy, as sclite computes it, with language models and without.
    """
    if not len(tokens):
        return []
    lengths = np.subtract(ends, starts)
    firsts = np.cumsum(lengths) - lengths
    # The frames of all symbols, one symbol after the other.
    frames = np.arange(lengths.sum()) + np.repeat(np.subtract(starts, firsts), lengths)
    probabilities = np.exp(log_probs[frames, np.repeat(tokens, lengths)], dtype=np.float64)
    found: list[float] = (np.add.reduceat(probabilities, firsts) / lengths).tolist()
    return found
