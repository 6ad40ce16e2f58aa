"""Nothing in an update waits for the device, save the one delayed reading of what the update reports.

The device is torch's `meta`, whose tensors have shapes and no numbers: whoever asks it for a number gets an error, and
so does whoever mixes its tensors with the host's. It takes the ways through the code that a GPU takes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from toy_speech import prepare, pretraining

from w2v.build import build_trainer
from w2v.optim.gradients import DelayedRead
from w2v.options import parse_train_command

pytest.importorskip("soundfile")

DEVICE = torch.device("meta")
WAV2VEC = [
    "--arch", "wav2vec", "--criterion", "wav2vec", "--infonce", "--num-negatives", 5, "--cross-sample-negatives", 5,
    "--prediction-steps", 3, "--conv-feature-layers", "[(16, 10, 5), (16, 8, 4), (16, 4, 4)]", "--skip-connections-agg",
    "--conv-aggregator-layers", "[(16, 2, 1), (16, 3, 1)]", "--vq-vars", 8, "--loss-weights", "[1]",
]  # fmt: skip
TINY = ["--encoder-layers", 2, "--encoder-embed-dim", 16, "--encoder-ffn-embed-dim", 32, "--final-dim", 8]
ENCODER = {
    "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2", "encoder_layers": 2,
    "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 4, "conv_pos": 16,
    "conv_pos_groups": 4,
}  # fmt: skip
CTC = ["--arch", "wav2vec_ctc", "--criterion", "ctc", "--labels", "ltr", "--w2v-args", json.dumps(ENCODER),
       "--feature-grad-mult", 1, "--apply-mask", "--mask-channel-prob", 0.5]  # fmt: skip
KINDS: dict[str, list[Any]] = {
    "wav2vec": WAV2VEC,
    "gumbel": [*WAV2VEC, "--vq-type", "gumbel"],
    "kmeans": [*WAV2VEC, "--vq-type", "kmeans", "--enable-padding"],
    "wav2vec2": [*TINY, "--latent-vars", 4, "--clip-norm", 1.0],
    "everywhere": [*TINY, "--latent-vars", 4, "--negatives-from-everywhere", "--cross-sample-negatives", 5],
    "codebook": [*TINY, "--latent-vars", 4, "--codebook-negatives", 5],
    "padded": [*TINY, "--latent-vars", 4, "--enable-padding", "--extractor-mode", "default"],
    "layer_norm": [*TINY, "--latent-vars", 4, "--extractor-mode", "layer_norm", "--layer-norm-first"],
    "checkpointed": [*TINY, "--latent-vars", 4, "--checkpoint-activations"],
    "ctc": CTC,
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


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    reads = []
    monkeypatch.setattr(DelayedRead, "read", lambda self: reads.append(1) or [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    more = ["--max-tokens", 10**6, "--batch-size", 8, "--disable-validation", "--bf16", "--update-freq", 2]
    if kind in ("wav2vec", "gumbel", "kmeans", "ctc"):
        command = [data, "--optimizer", "adam", *KINDS[kind], *more, "--save-dir", tmp_path, "--num-workers", 0,
                   "--cpu", "--lr", 0.001]  # fmt: skip
    else:
        command = pretraining(data, tmp_path, *KINDS[kind], *more)
    trainer = build_trainer(parse_train_command([str(item) for item in command]).config, DEVICE)
    micro_batches = next(trainer.batches.updates(2))
    with WithoutNumbers() as device:
        for _ in range(3):
            trainer.train_step(micro_batches)
    if kind not in ("wav2vec", "gumbel", "kmeans"):
        assert set(device.is_masked) == {batch.is_padded for batch, _ in micro_batches}
    assert len(reads) == 2  # of each update, while the next one is under way
    assert all(p.grad is not None and p.grad.device == DEVICE for p in trainer.model.parameters() if p.requires_grad)
