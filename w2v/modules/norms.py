"""Normalisations that work in float32 and leave padding out of their statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.autocast import at_least_float32
from w2v.functional.padding import group_norm
from w2v.functional.time_norm import norm_over_time
from w2v.modules.bare import is_bare


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
        # Statistics over thousands of frames need float32, whatever comes in.
        result = group_norm(at_least_float32(input), lengths, self.num_groups, self.weight, self.bias, self.eps)
        return result.type_as(input)


class TimeNorm(GroupNorm):
    """Norm of each channel over the valid frames: a group norm with one channel per group.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def over_frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Normalise (B, T, C); `lengths` as in `forward`, which takes (B, C, T)."""
        return norm_over_time(x, lengths, self.weight, self.bias, self.eps)


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of each frame. The norm is called `1`, as in the original."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add_module("1", nn.LayerNorm(channels))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise (B, C, T); padding does not matter to it."""
        return self.over_frames(x.transpose(1, 2), lengths).transpose(1, 2)

    def over_frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Normalise (B, T, C)."""
        result: Tensor = self.get_submodule("1")(x)
        return result


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class NormedConv(nn.Sequential):
    """Modules one after the other; group norms are told the true frames, so that padding does not count.

    The place of a module in the sequence is part of its parameters' names in checkpoints.
    """

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Return (B, C', T') for (B, C, T).

        Args:
            features: (B, C, T).
            frames: (B,) int64 true frames per clip *after* the convolution, on the CPU; None without padding.
        """
        before: nn.Module = self
        for module in self:
            if is_bare(module, nn.ReLU) and is_bare(before, type(before)):
                # In place: a norm needs its input for its gradient, not its output. With hooks that output is theirs.
                features = F.relu(features, inplace=True)
            else:
                features = module(features, frames) if isinstance(module, GroupNorm) else module(features)
            before = module
        return features
