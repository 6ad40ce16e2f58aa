"""How much of a result is float32's rounding: what changes when the input changes in its last bit.

Recorded tensors carry the rounding of the processor that made them, and other processors add up in another order.
Where layers amplify rounding (the gradient of CTC makes 1e-4 of 1e-6 in the scores), a fixed bound holds on some
machines only. An input whose last bit differs is as good an input, so results may differ by as much as these do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

DRAWS = 3
SHARE = 2.0  # of the largest change seen: the recording has its rounding, and this machine has its own


def rounding_of(function: Callable[[Tensor], Mapping[str, Tensor]], source: Tensor) -> dict[str, float]:
    """Return by name the largest change of each result of `function` when samples of `source` change by an ulp."""
    plain = {name: value.detach().clone() for name, value in function(source).items()}
    largest = dict.fromkeys(plain, 0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        signs = torch.randint(0, 2, source.shape, generator=generator) * 2 - 1
        changed = function(source * (1 + signs * torch.finfo(torch.float32).eps))
        for name, value in plain.items():
            change = (changed[name].detach() - value).abs()
            largest[name] = max(largest[name], float(change.max()) if change.numel() else 0.0)
    return {name: SHARE * change for name, change in largest.items()}
