"""Convolutional relative positions (wav2vec 2.0, section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.strided_conv import prefers_products

FEWEST_CHANNELS_IN_BF16 = 16
"""Below so many channels per group, torch 2.13's bfloat16 convolution on the CPU is wrong by over 100 % for kernels of
16 and more; such (tiny) models convolve in float32."""


class PositionalConv(nn.Module):
    """Grouped convolution over time with weight norm, and GELU.

    The weight norm is over the kernel's last dimension, with the original's parameter names (`weight_g`,
    `weight_v`), which torch's own parametrisation no longer has.

    Args:
        embed_dim: channels C.
        kernel: width in frames.
        groups: groups of channels.
    """

    fixed: Tensor | None

    def __init__(self, embed_dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.groups = groups
        weight = torch.empty(embed_dim, embed_dim // groups, kernel)
        nn.init.normal_(weight, mean=0.0, std=math.sqrt(4.0 / (kernel * embed_dim)))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.register_buffer("fixed", None, persistent=False)

    def fix(self) -> None:
        """Compute the weight once, for forward passes after which nothing is trained."""
        self.fixed = self._weight().detach()

    def _weight(self) -> Tensor:
        return torch._weight_norm(self.weight_v, self.weight_g, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, C) positions for (B, T, C) frames, zero where padded."""
        weight = self._weight() if self.fixed is None else self.fixed
        x = x.transpose(1, 2)
        if x.device.type == "cpu" and weight.shape[1] < FEWEST_CHANNELS_IN_BF16:
            with torch.autocast("cpu", enabled=False):
                x = F.conv1d(x.float(), weight.float(), self.bias, padding=self.kernel // 2, groups=self.groups)
        elif prefers_products(x):
            # (B, C, 1, T), channels last, as a view: about 1.4 x as fast as conv1d.
            image = F.conv2d(
                x.unsqueeze(2), weight.unsqueeze(2), self.bias, padding=(0, self.kernel // 2), groups=self.groups
            )
            x = image.squeeze(2)
        else:
            x = F.conv1d(x, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        if self.kernel % 2 == 0:
            x = x[:, :, :-1]  # an even kernel makes one frame too many
        return F.gelu(x).transpose(1, 2)
