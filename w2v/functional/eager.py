"""Where our own autograd functions may take the place of torch's operations.

They are quicker on a CPU, or keep less for the backward pass, and compute the same numbers. A compiler, a tracer and
`torch.func` cannot look inside them; there the plain operations run instead.
"""

from __future__ import annotations

import torch


def is_eager() -> bool:
    """Say whether torch runs every operation at once, without being traced.

    False under `torch.compile`, `torch.export` and `torch.jit.trace`, and inside `torch.func.grad`, `vmap`, `jvp`.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    return not torch._C._are_functorch_transforms_active()
