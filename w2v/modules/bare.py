"""When the weights of a layer may be used without calling the layer.

The quick ways of this library (`functional/gelu_linear.py`, `functional/strided_conv.py`) compute with the weights of
torch's own layers. Hooks, parametrisations, pruning, spectral norm, and layers put in its place (8 bits, LoRA) act
through its call; where there is one of these, the layer is called.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Say whether the formula of `kind` with the parameters of `module` is all that calling the module would do.

    Args:
        module: a layer.
        kind: the class that it was built as. A subclass may compute something else: a parametrised layer is one.
    """
    # torch's private names; there is no public way to ask. Pruning and the older weight norms are hooks, too.
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    is_changed = any(hooks) or "forward" in vars(module) or _has_any_global_hook()  # type: ignore[no-untyped-call]
    return type(module) is kind and not is_changed
