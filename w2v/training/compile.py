"""`--compile`: torch.compile for the parts of a model that repeat.

Transformer blocks and convolutions are compiled each by itself, in place: their names and parameters stay, so
checkpoints, DistributedDataParallel, FSDP2 and LayerDrop do not notice; all blocks of one kind share their kernels;
and the planning of masks, negatives and lengths stays out, which is the host's work.
"""

from __future__ import annotations

import logging
import os
import shutil

from torch import nn

from w2v.errors import ConfigError
from w2v.modules.conv_feature_extractor import ConvBlock
from w2v.modules.norms import TimeNorm
from w2v.modules.transformer_layer import TransformerLayer

logger = logging.getLogger(__name__)

_COMPILERS = ("g++", "clang++", "c++")
_VARIANTS = 64
"""Of a block: training and validation, with and without padding, each convolution. torch gives up beyond 8."""


def require_compiler() -> None:
    """Check that there is a C++ compiler, which torch.compile needs.

    Raises:
        ConfigError: there is none.
    """
    compilers = (os.environ.get("CXX", _COMPILERS[0]), *_COMPILERS)
    if not any(shutil.which(name) for name in compilers):
        raise ConfigError(f"--compile needs a C++ compiler, found none of {', '.join(_COMPILERS)}; install one")


def compile_blocks(model: nn.Module, mode: str, backend: str = "inductor") -> int:
    """Let the blocks of a model be compiled, in place, when they are first used; return how many there are.

    Args:
        model: any model of this library; one without such blocks is left as it is.
        mode: of torch.compile: `default`, or `reduce-overhead`, which records CUDA graphs, one per shape of a batch.
        backend: of torch.compile.

    Raises:
        ConfigError: as `require_compiler` does.
    """
    require_compiler()
    import torch._dynamo  # here, because it takes a second

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    blocks = [module for module in model.modules() if _is_worth_it(module)]
    for block in blocks:
        # Backends other than inductor know no modes.
        block.compile(backend=backend, mode=mode if backend == "inductor" else None)
    logger.info("--compile: %d blocks will be compiled when they are first used", len(blocks))
    return len(blocks)


def _is_worth_it(module: nn.Module) -> bool:
    if isinstance(module, ConvBlock):
        # A norm over time goes through the clips of a padded batch one by one: a program for every batch.
        return not isinstance(module.norm, TimeNorm)
    return isinstance(module, TransformerLayer)
