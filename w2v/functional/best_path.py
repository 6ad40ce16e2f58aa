"""The most likely symbol of every frame, collapsed: greedy CTC decoding (Graves et al. 2006, section 3.2).

Vectorised over clips and frames; beam search lives in `decoders`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLANK = 0


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
