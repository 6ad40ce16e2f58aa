"""Convolutional relative positions (wav2vec 2.0, section 2)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.autocast import without_autocast
from w2v.functional.eager import is_eager
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
        # On the meta device, where models are built to be filled from a file, a norm would import torch's reference
        # operations: 2 s for a shape.
        norm = weight.new_empty(1, 1, kernel) if weight.is_meta else weight.norm(dim=(0, 1), keepdim=True)
        self.weight_g = nn.Parameter(norm)
        self.weight_v = nn.Parameter(weight)
        self.register_buffer("fixed", None, persistent=False)

    def fix(self) -> None:
        """Compute the weight once, for forward passes after which nothing is trained."""
        self.fixed = self._weight().detach()

    def _weight(self) -> Tensor:
        """Return (C, C / groups, K): directions `weight_v`, of the lengths `weight_g` per place of the kernel."""
        if is_eager():
            return torch._weight_norm(self.weight_v, self.weight_g, 2)
        # In plain operations: torch's own has no rule for `vmap`, and is none of ONNX's.
        norm = self.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt()
        return self.weight_v * (self.weight_g / norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, C) positions for (B, T, C) frames, zero where padded."""
        # Where gradients are wanted the parameters must take part, whatever was computed before.
        weight = self._weight() if self.fixed is None or torch.is_grad_enabled() else self.fixed
        x = x.transpose(1, 2)  # (B, C, T)
        options: dict[str, Any] = {"padding": self.kernel // 2, "groups": self.groups}
        is_narrow = x.device.type == "cpu" and weight.shape[1] < FEWEST_CHANNELS_IN_BF16
        if is_narrow and (torch.is_autocast_enabled("cpu") or x.dtype in (torch.float16, torch.bfloat16)):
            with without_autocast(x.device):
                wide = F.conv1d(x.float(), weight.float(), self.bias.float(), **options)
            # Under autocast what follows is float32; a model in half precision stays in it.
            x = wide.to(self.bias.dtype)
        elif not is_narrow and prefers_products(x):
            # (B, C, 1, T), channels last, as a view: about 1.4 x as fast as conv1d.
            options["padding"] = (0, options["padding"])
            x = F.conv2d(x.unsqueeze(2), weight.unsqueeze(2), self.bias, **options).squeeze(2)
        else:
            x = F.conv1d(x, weight, self.bias, **options)
        if self.kernel % 2 == 0:
            x = x[:, :, :-1]  # an even kernel makes one frame too many
        return F.gelu(x).transpose(1, 2)


class NormedPositionalConv(nn.Sequential):
    """Grouped convolution over time, norm over the channels of a frame without gains, and GELU (data2vec).

    Args:
        embed_dim: channels C.
        kernel: width in frames.
        groups: groups of channels.
    """

    def __init__(self, embed_dim: int, kernel: int, groups: int) -> None:
        # Its parameters are `0.weight` and `0.bias`, as in the original.
        super().__init__(nn.Conv1d(embed_dim, embed_dim, kernel, padding=kernel // 2, groups=groups))
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, C) of (B, T, C)."""
        x = self[0](x.transpose(1, 2))
        if self.kernel % 2 == 0:
            x = x[:, :, :-1]
        x = x.transpose(1, 2)
        return F.gelu(F.layer_norm(x, x.shape[-1:]))


def positional_convs(embed_dim: int, kernel: int, groups: int, depth: int) -> nn.Sequential:
    """Return one convolution with weight norm, or `depth` narrower ones (`--pos-conv-depth`)."""
    if depth == 1:
        return nn.Sequential(PositionalConv(embed_dim, kernel, groups))
    blocks = (NormedPositionalConv(embed_dim, max(3, kernel // depth), groups) for _ in range(depth))
    return nn.Sequential(*blocks)
