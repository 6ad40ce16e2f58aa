"""A model made ready for inference alone: number format, weights cast once, positions computed once, layers in int8."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from w2v.errors import ConfigError
from w2v.functional.products import LARGEST_INT8, check_int8, quickest_safe
from w2v.modules.positional_conv import PositionalConv


class _Formats(Protocol):
    @property
    def fp16(self) -> bool: ...
    @property
    def bf16(self) -> bool: ...


class _Flags(_Formats, Protocol):
    @property
    def int8(self) -> bool: ...


def prepare(model: nn.Module, config: _Flags, device: torch.device) -> torch.dtype | None:
    """Prepare a model for inference alone, in place, in the numbers that flags ask for.

    Args:
        model: on the CPU still.
        config: the flags of a program.
        device: where it will compute.

    Returns:
        number format of autocast; None: float32.

    Raises:
        ConfigError: `--int8` cannot be used on this device.
    """
    half = number_format(config, device)
    if config.int8:
        if device.type != "cpu":
            raise ConfigError("--int8 is for a CPU; give --cpu, or --bf16 on this GPU")
        to_int8(model)
    cast_weights(model, half)
    return half


def cast_weights(model: nn.Module, half: torch.dtype | None) -> None:
    """Prepare a model for inference alone, in place.

    Args:
        model: will be used under autocast to `half`, if that is given.
        half: number format of autocast; None: float32.
    """
    for module in model.modules():
        if isinstance(module, PositionalConv):
            module.fix()
        elif half is not None and isinstance(module, (nn.Linear, nn.Conv1d)):
            module.to(half)


_WIDTHS = 8
"""int8 kernels want widths that are multiples of this."""


class Int8Linear(nn.Module):
    """What a linear layer computes, up to rounding.

    Args:
        linear: the layer; it is left as it is.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = _scales(weight)
        self.register_buffer("weight", (weight / scale).round_().to(torch.int8))
        self.register_buffer("scale", scale.squeeze(1))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D) float32 for (..., C)."""
        rows = x.float().flatten(0, -2)
        scale = _scales(rows)
        whole = (rows / scale).round_().to(torch.int8)
        result = torch._int_mm(whole, self.weight.t()).float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            result.add_(self.bias)
        return result.view(*x.shape[:-1], -1)


def number_format(config: _Formats, device: torch.device) -> torch.dtype | None:
    """Return what `--fp16` and `--bf16` ask for, or what is quicker on this CPU; None: float32.

    Args:
        config: the flags of a program.
        device: where it computes.
    """
    asked = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else None
    return quickest_safe(asked, device, training=False)


def to_int8(model: nn.Module) -> int:
    """Replace the linear layers of transformer blocks in place; return how many were replaced.

    The others (the projection of features, the output layer) are small, and errors in them weigh more.

    Raises:
        ConfigError: this torch cannot multiply whole numbers on this CPU.
    """
    check_int8()
    count = 0
    for name, block in model.named_modules():
        if ".layers." not in f".{name}":
            continue
        for child_name, child in list(block.named_children()):
            if isinstance(child, nn.Linear) and not (child.in_features % _WIDTHS or child.out_features % _WIDTHS):
                setattr(block, child_name, Int8Linear(child))
                count += 1
    return count


def _scales(rows: Tensor) -> Tensor:
    """Return (N, 1): what 1 stands for in each row of (N, C)."""
    return rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-30).div_(LARGEST_INT8)
