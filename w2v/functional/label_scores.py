"""Numbers that tell how far a hypothesis can be trusted: free functions of log-probabilities and of texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.functional.edit_distance import edit_distance
from w2v.types import BLANK

ALPHA = 0.33  # order of the entropy: the default of NeMo's confidence measures
LOOP = 4  # words of what may be a loop (Kahn et al. 2019, section 3.3)


def ctc_log_likelihoods(log_probs: Tensor, lengths: Tensor, labels: Sequence[Sequence[int]]) -> list[float]:
    """Return ln P(labels | clip) of each clip, summed over all alignments; -inf where labels do not fit the frames.

    Args:
        log_probs: (B, T, V) float32, CPU.
        lengths: (B,) true frames per clip.
        labels: of each clip, without blanks; an empty one is the probability of blanks alone.
    """
    if not labels or not log_probs.shape[1]:
        return [0.0 if not label else -math.inf for label in labels]
    target_lengths = torch.tensor([len(label) for label in labels])
    targets = torch.tensor([symbol for label in labels for symbol in label], dtype=torch.int64)
    # (B, T, V) -> (T, B, V); targets of all clips in one row, as torch takes them
    losses = F.ctc_loss(
        log_probs.transpose(0, 1), targets, lengths.long(), target_lengths, blank=BLANK, reduction="none"
    )
    return [-loss for loss in losses.tolist()]


def tsallis_confidence(probabilities: npt.NDArray[np.floating], alpha: float = ALPHA) -> npt.NDArray[np.float64]:
    """Return 1 where a distribution has one outcome, 0 where all are equally likely: exponential Tsallis entropy.

    E = (1 - sum p^a) / (1 - a), E0 = (1 - V^(1-a)) / (1 - a); the value is (e^E - e^E0) / (1 - e^E0)
    (NeMo, `asr_confidence_utils`).

    Args:
        probabilities: (..., V), rows that sum to 1.
        alpha: order, above 0 and not 1.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    entropy = (1 - (p**alpha).sum(axis=-1)) / (1 - alpha)
    least = math.exp((1 - p.shape[-1] ** (1 - alpha)) / (1 - alpha))
    found: npt.NDArray[np.float64] = (np.exp(entropy) - least) / (1 - least)
    return found


def agreement(first: str, second: str) -> float:
    """Return 1 - edit distance over characters / length of the longer text; 1 for two empty texts."""
    longest = max(len(first), len(second))
    return 1 - edit_distance(first, second) / longest if longest else 1.0


def loops(words: Sequence[str]) -> int:
    """Return how often the most frequent sequence of four words occurs; 0 for fewer than four words."""
    grams = Counter(tuple(words[i : i + LOOP]) for i in range(len(words) - LOOP + 1))
    return max(grams.values(), default=0)
