"""Nothing in an update waits for the device, save the one delayed reading of what the update reports.

The device is torch's `meta`, whose tensors have shapes and no numbers: whoever asks it for a number gets an error, and
so does whoever mixes its tensors with the host's. It takes the ways through the code that a GPU takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import KINDS, TINY, small_trainer
from torch.overrides import TorchFunctionMode
from toy_speech import prepare

from w2v.optim.gradients import DelayedRead

pytest.importorskip("soundfile")

DEVICE = torch.device("meta")
OPTIONS: dict[str, list[Any]] = {
    **KINDS,
    "clipped": [*TINY, "--clip-norm", 1.0],
    "everywhere": [*TINY, "--negatives-from-everywhere"],
    "codebook": [*TINY, "--codebook-negatives", 5],
    "layer_norm": [*TINY, "--extractor-mode", "layer_norm", "--layer-norm-first"],
    "checkpointed": [*TINY, "--checkpoint-activations"],
}


class Generator(torch.Generator):
    """A generator that says it lives on the device."""

    device = DEVICE

    def __new__(cls, device: Any = None) -> Any:
        return super().__new__(cls, "cpu")


class WithoutNumbers(TorchFunctionMode):
    """The device draws no numbers, so it knows no generators; and it lacks a kernel for CTC.

    Attributes:
        is_masked: of every call of torch's attention, whether there was a mask. Without, a GPU takes flash attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_masked: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.ctc_loss:
            log_probs, targets, *lengths = args
            assert targets.device == DEVICE
            assert not any(length.device == DEVICE for length in lengths)
            return log_probs.sum()
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.is_masked.append(kwargs["attn_mask"] is not None)
        return func(*args, **{name: value for name, value in (kwargs or {}).items() if name != "generator"})


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: bool(x),
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
    ],
)
def test_the_device_gives_no_numbers(ask: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        ask(torch.ones(1, device=DEVICE))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("waits"), 24)


@pytest.mark.parametrize("kind", OPTIONS)
def test_no_step_waits(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    reads = []
    monkeypatch.setattr(DelayedRead, "read", lambda self: reads.append(1) or [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    more = ["--max-tokens", 10**6, "--batch-size", 8, "--disable-validation", "--bf16", "--update-freq", 2]
    trainer = small_trainer(OPTIONS[kind], data, tmp_path, DEVICE, *more)
    micro_batches = next(trainer.batches.updates(2))
    with WithoutNumbers() as device:
        for _ in range(3):
            trainer.train_step(micro_batches)
    if kind not in ("wav2vec", "gumbel", "kmeans"):
        assert set(device.is_masked) == {batch.is_padded for batch, _ in micro_batches}
    assert len(reads) == 2  # of each update, while the next one is under way
    assert all(p.grad is not None and p.grad.device == DEVICE for p in trainer.model.parameters() if p.requires_grad)
