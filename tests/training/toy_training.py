"""A tiny task, model and loss that go through the real trainer in milliseconds; also a program, for several ranks.

The task is a regression on noise of different lengths: its loss is a sum over samples, its sample size the number of
samples, so that micro-batches of different sizes must be weighed rightly.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from w2v import distributed
from w2v.config.sections import CheckpointConfig, CommonConfig, DatasetConfig, DistributedConfig, OptimizationConfig
from w2v.criterions.base import Criterion
from w2v.data.dataset import BatchDataset
from w2v.data.iterator import EpochIterator, iterate
from w2v.distributed.launcher import launch
from w2v.distributed.process_group import process_group
from w2v.distributed.ranks import find_rank
from w2v.errors import W2vError
from w2v.models.base import W2vModel
from w2v.optim import LR_SCHEDULERS, OPTIMIZERS, build_optimizer, build_schedule
from w2v.tasks.base import Task
from w2v.training.fsdp import parallel_model
from w2v.training.trainer import Trainer
from w2v.types import Loss
from w2v_cli.progress import set_up_logging

NUM_CLIPS = 22
CLIPS_PER_BATCH = 2
WIDTH = 8


@dataclass(frozen=True)
class ToyBatch:
    source: Tensor
    indices: Tensor
    seed: int

    @property
    def num_items(self) -> int:
        return len(self.source)

    @property
    def num_tokens(self) -> int:
        return self.source.shape[0] * self.source.shape[1]

    def to(self, device: torch.device) -> ToyBatch:
        return replace(self, source=self.source.to(device))


class ToyDataset(BatchDataset):
    def __init__(self, bad_clips: Sequence[int] = (), factor: float = 1.0) -> None:
        self.bad_clips = bad_clips
        self.factor = factor

    def batch(self, indices: Any, seed: int) -> ToyBatch:
        length = 3 + int(indices[0]) % 5  # batches of different sizes
        clips = []
        for i in indices:
            clip = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(1000 + int(i))) * self.factor
            clips.append(clip * float("nan") if int(i) in self.bad_clips else clip)
        return ToyBatch(torch.stack(clips), torch.tensor([int(i) for i in indices]), seed)


class ToyModel(W2vModel):
    def __init__(self, dropout: float, freeze_updates: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.freeze_updates = freeze_updates
        self.updates_seen: list[int] = []
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def set_num_updates(self, num_updates: int) -> None:
        self.updates_seen.append(num_updates)
        self.first.requires_grad_(num_updates >= self.freeze_updates)

    def forward(self, source: Tensor) -> Tensor:
        return self.second(self.dropout(torch.tanh(self.first(source))))


class ToyCriterion(Criterion):
    def forward(self, output: Tensor, batch: ToyBatch) -> Loss:
        error = (output.float() - batch.source.flip(-1)).pow(2).mean(-1)
        size = error.numel()
        sums = {"ntokens": size, "nsentences": batch.num_items, "absolute": (output.detach().float().abs().sum())}
        return Loss(error.sum(), size, sums)

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        return {
            **Criterion.summarize(sums),
            "ntokens": sums["ntokens"],
            "nsentences": sums["nsentences"],
            "absolute": sums["absolute"] / sums["sample_size"],
        }


class ToyTask(Task):
    def __init__(self, *, bad_clips: Sequence[int] = (), kill_at: int = 0, signal_at: int = 0, fail_at: int = 0,
                 fail_rank: int = 0, factor: float = 1.0, num_workers: int = 0, seed: int = 1,
                 num_batches: int = NUM_CLIPS // CLIPS_PER_BATCH, num_valid: int = 3) -> None:  # fmt: skip
        super().__init__(None, seed)
        self.dataset = ToyDataset(bad_clips, factor)
        self.kill_at, self.signal_at, self.fail_at, self.fail_rank = kill_at, signal_at, fail_at, fail_rank
        self.num_workers, self.num_batches, self.num_valid = num_workers, num_batches, num_valid
        self.calls = 0
        self.seen: list[list[int]] = []
        self.losses: list[float] = []
        self.valid_losses: list[float] = []

    def train_batches(self, split: str, dataset: DatasetConfig) -> EpochIterator:
        batches = [
            list(range(i, i + CLIPS_PER_BATCH)) for i in range(0, CLIPS_PER_BATCH * self.num_batches, CLIPS_PER_BATCH)
        ]
        return EpochIterator(
            self.dataset,
            batches,  # type: ignore[arg-type]
            seed=self.seed,
            num_workers=self.num_workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

    def valid_batches(self, split: str, dataset: DatasetConfig) -> Iterable[ToyBatch]:
        mine = slice(distributed.rank(), None, distributed.world_size())
        batches = [[100, 101], [102, 103], [104]][: self.num_valid]
        return iterate(ToyDataset(), batches[mine], range(1, self.num_valid + 1)[mine])  # type: ignore[arg-type]

    def train_step(self, model: nn.Module, criterion: Criterion, batch: ToyBatch) -> Loss:
        self.calls += 1
        # torchrun counts its restarts: the fault strikes once.
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.calls == self.kill_at and first and distributed.rank() == self.fail_rank:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls == self.signal_at and distributed.rank() == self.fail_rank:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.calls == self.fail_at and distributed.rank() == self.fail_rank:
            raise W2vError("the toy broke")
        loss = criterion(model(batch.source), batch)
        self.seen.append(batch.indices.tolist())
        self.losses.append(float(loss.value.detach()))
        return loss

    def valid_step(self, model: nn.Module, criterion: Criterion, batch: ToyBatch) -> Loss:
        loss = criterion(model(batch.source), batch)
        return replace(loss, value=torch.tensor(self.valid_losses.pop(0))) if self.valid_losses else loss

    def state_dict(self) -> dict[str, Any]:
        return {"toy": 1}


def make_trainer(save_dir: Path | str, options: Mapping[str, Any] | None = None, device: Any = None) -> Trainer:
    """Build a trainer; `options` holds fields by section, and `task`, `model`, `optimizer`, `schedule`."""
    given = {name: dict(fields) for name, fields in (options or {}).items()}
    optimization = OptimizationConfig(**{"lr": (0.01,), "max_update": 10, **given.get("optimization", {})})
    checkpoint = CheckpointConfig(save_dir=str(save_dir), **given.get("checkpoint", {}))
    common = CommonConfig(**{"log_format": "json", "log_interval": 1, "cpu": True, **given.get("common", {})})
    dataset = DatasetConfig(num_workers=0, **given.get("dataset", {}))
    model = ToyModel(**{"dropout": 0.0, "freeze_updates": 0, **given.get("model", {})})
    adam, fixed = OPTIMIZERS.get("adam"), LR_SCHEDULERS.get(given.get("schedule", {}).pop("name", "fixed"))
    plain = {"optimizer": {"_name": "adam"}, "criterion": {"_name": "toy"}}
    return Trainer(
        ToyTask(**given.get("task", {})),
        parallel_model(model, torch.device(device or "cpu"), DistributedConfig(**given.get("distributed", {}))),
        ToyCriterion(None),
        build_optimizer(adam, adam.config(**given.get("optimizer", {})), model.parameters()),
        build_schedule(fixed, fixed.config(**given.get("schedule", {})), optimization),
        common,
        dataset,
        optimization,
        checkpoint,
        plain,
        device=device,
        sample_rate=10,
    )


def main(arguments: list[str]) -> int:
    """Train in this process, or in as many as the options ask for, and leave weights and losses of each rank."""
    options = json.loads(arguments[1])
    flags = options.get("distributed", {})
    names = {
        "world_size": "distributed_world_size",
        "rank": "distributed_rank",
        "init_method": "distributed_init_method",
    }
    given = {name: flags[flag] for name, flag in names.items() if flag in flags}
    place = find_rank(**given, cpu=True)
    if place.spawn:
        return launch(main, arguments, place)
    with process_group(place, cpu=True, timeout=options.get("timeout", 60.0)) as device:
        set_up_logging(is_master=distributed.is_master())
        trainer = make_trainer(arguments[0], options, device)
        reason = trainer.train()
        task: Any = trainer.task
        answer = {"weights": trainer.model.state_dict(), "losses": task.losses, "seen": task.seen, "reason": reason}
        torch.save(answer, Path(arguments[0]) / f"answer{distributed.rank()}.pt")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        sys.exit(main(sys.argv[1:]))
    except W2vError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
