"""InfoNCE over logits whose positive is in column 0 (wav2vec 2.0, section 3.2; HuBERT, section 2.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def positive_loss(logits: Tensor) -> Tensor:
    """Return the summed cross-entropy of (N, 1 + K) logits whose class is always 0."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device), reduction="sum")


@torch.no_grad()
def num_correct(logits: Tensor) -> Tensor:
    """Count rows whose largest logit is the positive's; rows of equal logits do not count."""
    if logits.shape[0] == 0:
        return torch.zeros((), device=logits.device)
    return ((logits.argmax(dim=-1) == 0) & (logits.argmin(dim=-1) != 0)).sum()
