"""A transformer block with an adapter after it, which belongs to one language (MMS: Pratap et al. 2023, section 5)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from w2v.modules.multihead_attention import Memory
from w2v.modules.transformer_layer import StackSpec, TransformerLayer


class Adapter(nn.Module):
    """A narrow feed-forward layer with its own norm. Names are those of Hugging Face.

    Args:
        dim: C, width of the block.
        width: C', width inside.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, C), which the caller adds to the block's output."""
        # (B, T, C) -> (B, T, C') -> (B, T, C); C' is 16 in MMS
        result: Tensor = self.linear_2(F.relu(self.linear_1(self.norm(x))))
        return result


class AdaptedLayer(TransformerLayer):
    """A block, and what its adapter adds."""

    def __init__(self, spec: StackSpec, width: int) -> None:
        super().__init__(spec)
        self.adapter_layer = Adapter(spec.embed_dim, width)

    def forward(
        self, x: Tensor, attend_to: Tensor | None, *, is_causal: bool = False, memory: Memory | None = None
    ) -> Tensor:
        """Return (B, T, C); arguments as in `MultiheadAttention.forward`."""
        x = super().forward(x, attend_to, is_causal=is_causal, memory=memory)
        added: Tensor = self.adapter_layer(x)
        return x + added
