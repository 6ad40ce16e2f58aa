"""The model with its weights, gradients and optimizer state divided over the ranks (torch's FSDP2).

Each transformer block is a unit whose weights come together when they are needed and part again afterwards; the rest
of the model is one more. Checkpoints are whole, so that they can be read with and without sharding.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from w2v.config.sections import DistributedConfig
from w2v.distributed import is_master, rank, sum_across_ranks, world_size
from w2v.errors import ConfigError
from w2v.modules.transformer_layer import TransformerLayer
from w2v.optim.base import Optimizer
from w2v.optim.gradients import gradient_norm
from w2v.training.ddp import ParallelModel

OLDEST_TORCH = "2.13"
"""Earlier ones have FSDP2, too, but do not see into the dataclasses that our models return, and so miss gradients."""


def parallel_model(model: nn.Module, device: torch.device, config: DistributedConfig) -> ParallelModel:
    """Return the model in the way that `--ddp-backend` says.

    Raises:
        ConfigError: this version of torch cannot do it.
    """
    if config.ddp_backend == "fully_sharded" and world_size() > 1:
        return ShardedModel(model, device, config)
    return ParallelModel(model, device, config)


class ShardedModel(ParallelModel):
    """Divides `model` over the ranks, in place.

    Args:
        model: on the CPU or on `device`; equal on all ranks.
        device: where it is trained.
        config: the distributed section.
    """

    is_sharded = True

    def __init__(self, model: nn.Module, device: torch.device, config: DistributedConfig) -> None:
        if torch.torch_version.TorchVersion(torch.__version__) < OLDEST_TORCH:
            raise ConfigError(
                f"--ddp-backend fully_sharded needs torch {OLDEST_TORCH} or newer, this is "
                f"{torch.__version__}; --ddp-backend c10d works with all"
            )
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world_size(),))
        for module in model.modules():
            if isinstance(module, TransformerLayer):
                fully_shard(module, mesh=mesh)
        self._sharded: Any = fully_shard(model, mesh=mesh)
        # Only now, so that a model which is larger than the device moves there in parts.
        super().__init__(model, device, config)
        # The same memory as plain tensors: neither optimizers nor norms need to know of sharding.
        self._shards = [nn.Parameter(_local(parameter), requires_grad=False) for parameter in self._parameters]

    def current(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    @contextlib.contextmanager
    def sync_gradients(self, *, last: bool) -> Iterator[None]:
        self._sharded.set_requires_gradient_sync(last)
        with warnings.catch_warnings():
            # Views are safe as long as nobody changes them in place, which no criterion does.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            yield

    def attach_optimizer(self, optimizer: Optimizer) -> None:
        optimizer.parameters = self._shards

    def finish_backward(self) -> None:
        for parameter, shard in zip(self._parameters, self._shards, strict=True):
            shard.grad = None if parameter.grad is None else _local(parameter.grad)
            parameter.grad = None

    def norm(self, tensors: Iterable[Tensor]) -> Tensor:
        # The norm over all parts: squares add up over ranks, which hold disjoint ones.
        square = gradient_norm(list(tensors), self._device).square()
        return sum_across_ranks(square).sqrt()

    def weights(self) -> list[Tensor]:
        return [_local(tensor) for tensor in super().weights()]

    def state_dict(self, optimizer: Optimizer | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        # One tensor after the other: a rank never holds more than one of them whole.
        weights = {name: _whole(tensor) for name, tensor in self.model.state_dict().items()}
        if optimizer is None:
            return weights, None
        state = optimizer.state_dict()
        for number, entry in state["state"].items():
            like = self._parameters[number]
            entry.update({key: _whole(_joined(value, like)) for key, value in entry.items() if _is_shard(value, like)})
        return weights, state

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        wanted = dict(self.model.named_parameters(remove_duplicate=False))
        given = dict(state)
        for name, like in wanted.items():
            if name in given and given[name].shape == like.shape:
                part = _part(given[name], like).to(self._device)
                given[name] = _joined(part, like)
        self.model.load_state_dict(given)

    def load_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        parts = {}
        for number, entry in state["state"].items():
            like = self._parameters[number] if number < len(self._parameters) else None
            parts[number] = {
                key: _part(value, like) if isinstance(value, Tensor) and like is not None else value
                for key, value in entry.items()
            }
        optimizer.load_state_dict({**state, "state": parts})


def _local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor; all of one that is not divided."""
    divided: Any = tensor.detach()
    local: Tensor = divided.to_local() if hasattr(divided, "to_local") else divided
    return local


def _is_shard(value: Any, like: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == _local(like).shape


def _joined(part: Tensor, like: Any) -> Tensor:
    """Return the divided tensor, in the way of `like`, of which this rank holds `part`."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _whole(tensor: Any) -> Tensor:
    """Return a tensor with all its parts, on the CPU; without content on all ranks but the first."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.cpu() if is_master() else torch.empty(0)


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """Return what this rank holds of `whole` if it is divided in the way of `like`: equal parts, less at the end."""
    if whole.shape != like.shape:
        return whole
    # FSDP2 divides the first dimension into equal parts; the last rank may get fewer rows, or none.
    rows = -(-whole.shape[0] // world_size())
    return whole[rank() * rows :][: _local(like).shape[0]]
