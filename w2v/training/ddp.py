"""The model as several ranks train it: torch's DistributedDataParallel, renewed when parameters are set free.

All names of `--ddp-backend` but `fully_sharded` (`fsdp.py`) mean this wrapper: parts that drop out of an update
(LayerDrop) give their parameters zero gradients themselves, so that nothing has to be searched for unused ones.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from w2v.config.sections import DistributedConfig
from w2v.distributed import world_size
from w2v.optim.base import Optimizer
from w2v.optim.gradients import gradient_norm


class ParallelModel:
    """Keeps the wrapper of `model` fit for the parameters that are trained at the moment.

    Also the one place that knows where weights, gradients and the optimizer's state are: here, whole on every rank.

    Args:
        model: moved to `device`.
        device: where it is trained.
        config: the distributed section.

    Attributes:
        model: the model itself, which shares its parameters with the wrapper.
        is_sharded: whether ranks need one another for a forward pass, too.
    """

    is_sharded = False

    def __init__(self, model: nn.Module, device: torch.device, config: DistributedConfig) -> None:
        self.model: Any = model.to(device)
        self._device = device
        self._config = config
        self._parameters: Sequence[nn.Parameter] = list(model.parameters())
        self._trainable: list[bool] | None = None
        self._wrapped: DistributedDataParallel | None = None

    def current(self) -> nn.Module:
        """Return what the forward pass of training goes through; every rank must call this."""
        if world_size() == 1:
            model: nn.Module = self.model
            return model
        # The wrapper counts the parameters that need gradients when it is made: with fewer hooks than gradients, ranks
        # would train apart; with more, they would wait for ever. `--freeze-finetune-updates` changes them once.
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
                self.model,
                device_ids=[self._device.index] if self._device.type == "cuda" else None,
                broadcast_buffers=self._config.broadcast_buffers,
                bucket_cap_mb=self._config.bucket_cap_mb,
                find_unused_parameters=self._config.find_unused_parameters,
            )

    def sync_gradients(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of one micro-batch: ranks average gradients with the last one of an update only."""
        # Without `no_sync` each micro-batch would be exchanged: N times the traffic, for the same average.
        if last or self._wrapped is None:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[None] = self._wrapped.no_sync()
        return context

    def attach_optimizer(self, optimizer: Optimizer) -> None:
        """Let `optimizer`, which has no state yet, work on what this rank holds of the parameters."""

    def finish_backward(self) -> None:
        """Give the gradients of an update to the parameters that the optimizer works on."""

    def norm(self, tensors: Iterable[Tensor]) -> Tensor:
        """Return the 2-norm over tensors such as gradients, those of which other ranks hold parts included."""
        return gradient_norm(list(tensors), self._device)

    def weights(self) -> list[Tensor]:
        """Return what this rank holds of parameters and buffers that are real numbers."""
        # Buffers, too: batch norms and moving averages of codebooks are saved like weights.
        return [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]

    def state_dict(self, optimizer: Optimizer | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return whole weights, and the optimizer's whole state; every rank must call this, for rank 0 to have them."""
        return self.model.state_dict(), None if optimizer is None else optimizer.state_dict()

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take over whole weights.

        Raises:
            RuntimeError: they belong to another model.
        """
        self.model.load_state_dict(dict(state))

    def load_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Take over an optimizer's whole state.

        Raises:
            CheckpointError: it belongs to another model.
        """
        optimizer.load_state_dict(state)
