"""Self-attention of the transformer blocks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from w2v.functional.attention import attend


class Memory(Protocol):
    """Keys and values of earlier positions, which later ones look at without computing them again."""

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take note of (B, H, 1, D) of the new position; return (B, H, T, D) of all positions, the new one last."""


class MultiheadAttention(nn.Module):
    """Self-attention over (B, T, C) with queries scaled by head width ** -0.5.

    Args:
        embed_dim: C.
        num_heads: heads; they divide C.
        dropout: on the attention weights.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, x: Tensor, attend_to: Tensor | None, *, is_causal: bool = False, memory: Memory | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, T, C).
            attend_to: (B, 1, 1, T) bool, true for keys that count, at least one per clip; None: all.
            is_causal: a position sees itself and earlier ones; not together with `attend_to`.
            memory: earlier positions, which x, a single one, sees as well; then T of `attend_to` counts them all.
        """
        # (B, T, C) -> (B, H, T, C / H)
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if memory is not None:
            key, value = memory.extend(key, value)
        # On the weights of keys, after the softmax.
        dropout = self.dropout if self.training else 0.0
        # (B, H, T, D) -> (B, T, H, D) -> (B, T, C): the heads side by side
        mixed = attend(query, key, value, attend_to, dropout=dropout, is_causal=is_causal)
        result: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return result
