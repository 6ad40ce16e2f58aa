"""Norm, clipping and scaling of gradients, all on the device: nothing here waits for a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_norm(gradients: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the 2-norm over all gradients as a scalar float32 tensor; 0 where there are none."""
    if not gradients:
        return torch.zeros((), device=device)
    # (P,) norms of P tensors by one fused kernel, then one norm: no float64, and nothing read back.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
    return norm


def clip_coefficient(norm: Tensor, clip_norm: float, epsilon: float) -> Tensor:
    """Return `min(1, clip_norm / (norm + epsilon))`; the original's epsilon is 1e-6, and 0 with `--fp16`."""
    return (clip_norm / (norm + epsilon)).clamp(max=1.0)


def scale_gradients(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply all gradients by `factor` in place."""
    if gradients:
        torch._foreach_mul_(list(gradients), factor)


class DelayedRead:
    """Numbers on their way from the device to the host.

    The copy is queued at once and waited for only when it is read, and then only for the copy itself, not for the
    work that has been queued behind it. On the CPU the numbers are simply there.

    Args:
        values: (N,) tensor.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = values.detach()
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            # Page-locked memory, or the copy would wait for the device.
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[float]:
        """Return the numbers, waiting for the copy if need be."""
        if self._event is not None:
            self._event.synchronize()
        return [float(value) for value in self._host.tolist()]
