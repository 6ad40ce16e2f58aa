"""Weights that change no more: brought once into the form in which every forward pass would bring them.

Under autocast each pass casts all weights of linear layers and convolutions, and positions compute theirs from
directions and lengths (weight norm). For one clip at a time that is a fifth of the work. The numbers stay the same.
"""

from __future__ import annotations

import torch
from torch import nn

from w2v.modules.positional_conv import PositionalConv


def fix_weights(model: nn.Module, half: torch.dtype | None) -> None:
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
