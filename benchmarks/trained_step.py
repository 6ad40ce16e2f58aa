"""One update by this library's trainer on batches of noise: the step that the benchmarks time; and published sizes."""

from __future__ import annotations

import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from machine import machine

from w2v.checkpoint.file import save_checkpoint
from w2v.config import build_config
from w2v.config.sections import CheckpointConfig, CommonConfig, DatasetConfig, DistributedConfig, OptimizationConfig
from w2v.criterions import CRITERIONS
from w2v.data.dictionary import Dictionary
from w2v.models import MODELS, W2vModel
from w2v.optim import LR_SCHEDULERS, OPTIMIZERS, build_optimizer, build_schedule
from w2v.tasks import TASKS
from w2v.training.compile import compile_blocks
from w2v.training.ddp import ParallelModel
from w2v.training.trainer import Trainer
from w2v.types import AudioBatch
from w2v_cli.cpu import speed_on

_PROCESS = contextlib.ExitStack()

LETTERS = Dictionary.from_symbols(["|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"])


def for_speed() -> None:
    """Set this process up as `w2v-train` and `w2v-infer` do, to its end."""
    _PROCESS.enter_context(speed_on(torch.device("cpu")))


def noise_batch(clips: int, samples: int, labels: int = 0) -> AudioBatch:
    """Return clips of noise, with labels of letters if asked for."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(clips, samples, generator=generator)
    targets = torch.randint(5, len(LETTERS), (clips, labels), generator=generator) if labels else None
    return AudioBatch(
        source,
        torch.full((clips,), samples),
        torch.arange(clips),
        seed=1,
        targets=targets,
        target_lengths=torch.full((clips,), labels) if labels else None,
    )


def build(arch: str, options: Mapping[str, Any], **context: Any) -> W2vModel:
    """Build a model with random weights."""
    entry = MODELS.get(arch)
    return entry.cls.build(build_config(entry.config, {**entry.overrides, **options}, arch), **context)


def trainer_step(
    *,
    arch: str,
    model: Mapping[str, Any],
    criterion: str,
    criterion_options: Mapping[str, Any],
    precision: str,
    clips: int,
    samples: int,
    labels: int = 0,
    context: Mapping[str, Any] | None = None,
    device: str = "cpu",
    compile_mode: str | None = None,
    task: str = "audio_pretraining",
    batch: Any = None,
) -> Any:
    """Return a function that makes one update, of noise or of a batch; each has masks and negatives of its own.

    Its attribute `trainer` makes them.
    """
    if device == "cpu":
        for_speed()
    torch.manual_seed(1)
    network = build(arch, model, **(context or {}))
    loss, entry = CRITERIONS.get(criterion), TASKS.get(task)
    adam, fixed = OPTIMIZERS.get("adam"), LR_SCHEDULERS.get("fixed")
    if compile_mode is not None:
        compile_blocks(network, compile_mode)
    optimization = OptimizationConfig(lr=(1e-5,))
    problem = entry.cls(entry.config(data="."))
    problem.train_batches = lambda split, dataset: SimpleNamespace(epoch=1)
    trainer = Trainer(
        problem,
        ParallelModel(network.to(device), torch.device(device), DistributedConfig()),
        loss.cls(loss.config(**criterion_options)),
        build_optimizer(adam, adam.config(weight_decay=0.01), network.parameters()),
        build_schedule(fixed, fixed.config(), optimization),
        CommonConfig(cpu=device == "cpu", bf16=precision == "bf16", fp16=precision == "fp16", log_format="none"),
        DatasetConfig(),
        optimization,
        CheckpointConfig(no_save=True),
        {},
        device=torch.device(device),
    )
    batch = batch or noise_batch(clips, samples, labels)

    def step() -> None:
        trainer.train_step([(replace(batch, seed=trainer.num_updates), True)])

    step.trainer = trainer  # type: ignore[attr-defined]
    return step


def tell_published(arch: str, options: Mapping[str, Any], read: Callable[[Any], object], **context: Any) -> None:
    """Build a model of a published size, let it read, save it; print times of the processor, and peaks of memory.

    Args:
        arch, options, context: see `build`.
        read: passes a clip through the model.
    """

    def memory() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    for_speed()
    begin, before = time.process_time(), memory()
    model = build(arch, options, **context).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    taken = time.process_time() - begin
    print(f"built: {count:,} parameters, {taken:.1f} s, peak {memory():.2f} GB ({before:.2f} before)")
    begin = time.process_time()
    with torch.no_grad():
        read(model)
    print(f"read 20 s: {time.process_time() - begin:.1f} s, peak {memory():.2f} GB")
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        save_checkpoint(path, {"model": model.state_dict()})
        size = path.stat().st_size / 1e9
    print(f"saved {size:.2f} GB: {time.process_time() - begin:.1f} s, peak {memory():.2f} GB")
    print(machine())
