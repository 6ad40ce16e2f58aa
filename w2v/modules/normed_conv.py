"""A convolution with its dropout, group norm and activation: the block that wav2vec 1's two networks are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from w2v.modules.norms import GroupNorm

# In place: what comes before (a norm, a linear layer) needs its input, not its output, for its gradient.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": partial(nn.ReLU, inplace=True), "gelu": nn.GELU}


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
        for module in self:
            features = module(features, frames) if isinstance(module, GroupNorm) else module(features)
        return features
