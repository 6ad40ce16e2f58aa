"""Where the transformer blocks of a model look: attention weights, which no ordinary forward pass keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.models.base import W2vModel
from w2v.modules.multihead_attention import MultiheadAttention

Floats = npt.NDArray[np.float32]


@torch.inference_mode()
def attention_weights(model: W2vModel, clip: Floats) -> list[Floats]:
    """Return the attention weights (H, T, T) of each block for one clip: row t tells what frame t looks at.

    The fused kernels keep no weights, so they are computed once more from what went into each block: H x T x T
    numbers per block, 12 MB for 500 frames and 12 heads.

    Args:
        model: in evaluation mode.
        clip: (S,) samples, at least one frame long, normalised where the model wants it.

    Returns:
        a list without entries where the model has no attention.
    """
    found: list[Floats] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        found.append(_weights(module, inputs[0])[0].float().cpu().numpy())

    blocks = [module for module in model.modules() if isinstance(module, MultiheadAttention)]
    handles = [block.register_forward_pre_hook(keep) for block in blocks]
    try:
        if blocks:
            device = next(model.parameters()).device
            model.extract_features(torch.from_numpy(clip)[None].to(device), None)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _weights(attention: MultiheadAttention, x: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) of (B, T, C) frames, (B, H, T, T)."""
    query, key = (
        projection(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj)
    )
    return torch.softmax(query @ key.transpose(2, 3) * query.shape[-1] ** -0.5, dim=-1)


def attention_span(weights: Floats) -> Floats:
    """Return how far each head looks, (H,): the mean distance in frames between a frame and what it looks at."""
    places = np.arange(weights.shape[-1])
    distance = np.abs(places[:, None] - places[None]).astype(np.float32)
    span: Floats = np.einsum("hij,ij->h", weights, distance) / max(len(places), 1)
    return span.astype(np.float32)
