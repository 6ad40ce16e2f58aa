"""Normalisations that work in float32 and leave padding out of their statistics."""

from __future__ import annotations

from torch import Tensor, nn

from w2v.functional.padding import group_norm


class GroupNorm(nn.GroupNorm):
    """Group norm over channels and the valid frames of (B, C, T), in float32."""

    def forward(self, input: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            input: (B, C, T).
            lengths: (B,) int64 valid frames per clip, CPU; None where all frames count.

        Returns:
            (B, C, T) in the dtype of `input`; zero in padded frames.
        """
        result = group_norm(input.float(), lengths, self.num_groups, self.weight, self.bias, self.eps)
        return result.type_as(input)


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of (B, C, T), in float32. The norm is called `1`, as in the original."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add_module("1", nn.LayerNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each frame of (B, C, T)."""
        norm = self.get_submodule("1")
        result: Tensor = norm(x.transpose(1, 2).float())
        return result.type_as(x).transpose(1, 2)
