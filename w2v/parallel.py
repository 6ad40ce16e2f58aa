"""The model as several ranks train it: torch's DistributedDataParallel, renewed when parameters are set free.

Every name of `--ddp-backend` means this wrapper: parts that drop out of an update (LayerDrop) touch their parameters
themselves, so that nothing has to be searched for unused ones.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from w2v.distributed import world_size
from w2v.sections import DistributedConfig


class ParallelModel:
    """Keeps the wrapper of `model` fit for the parameters that are trained at the moment.

    Args:
        model: on its device.
        device: that device.
        config: the distributed section.
    """

    def __init__(self, model: nn.Module, device: torch.device, config: DistributedConfig) -> None:
        self._model = model
        self._device = device
        self._config = config
        self._parameters: Sequence[nn.Parameter] = list(model.parameters())
        self._trainable: list[bool] | None = None
        self._wrapped: DistributedDataParallel | None = None

    def current(self) -> nn.Module:
        """Return what the forward pass of training goes through; every rank must call this."""
        if world_size() == 1:
            return self._model
        trainable = [parameter.requires_grad for parameter in self._parameters]
        if self._wrapped is None or trainable != self._trainable:
            self._wrapped = None  # lets go of the old wrapper, and of its hooks, before the new one is made
            self._trainable = trainable
            self._wrapped = self._wrap()
        return self._wrapped

    def _wrap(self) -> DistributedDataParallel:
        with warnings.catch_warnings():
            # Its successor, `forward_sync_buffers`, is too young for the oldest torch that we support.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            return DistributedDataParallel(
                self._model,
                device_ids=[self._device.index] if self._device.type == "cuda" else None,
                broadcast_buffers=self._config.broadcast_buffers,
                bucket_cap_mb=self._config.bucket_cap_mb,
                find_unused_parameters=self._config.find_unused_parameters,
            )

    def exchange(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of one micro-batch: ranks average gradients with the last one of an update only."""
        if last or self._wrapped is None:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[None] = self._wrapped.no_sync()
        return context
