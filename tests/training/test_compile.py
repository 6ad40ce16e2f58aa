"""`--compile`: the numbers of the model as it is, and one program for all blocks of a kind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.config import build_config
from w2v.models.base import MODELS
from w2v.training.compile import compile_blocks
from w2v_cli import train

SMALL = {
    "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 2", "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4, "conv_pos": 16, "conv_pos_groups": 2, "quantize_targets": True, "final_dim": 16,
    "latent_vars": 8, "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
BATCHES: list[tuple[int, list[int] | None]] = [(4000, None), (5000, None), (6000, [6000, 5000, 3000])]


def losses_and_gradients(options: dict[str, Any], backend: str | None) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    entry = MODELS.get("wav2vec2")
    model = entry.cls.build(build_config(entry.config, {**SMALL, **options}, "test")).train()
    if backend is not None:
        assert compile_blocks(model, "default", backend) > 0
    found = []
    for number, (size, lengths) in enumerate(BATCHES):
        source = torch.randn(3, size, generator=torch.Generator().manual_seed(number))
        model.zero_grad()
        logits = model(source, None if lengths is None else torch.tensor(lengths), number).logits
        loss = logits.clamp(min=-1e4).logsumexp(dim=1).sum()
        loss.backward()
        found.append((loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    return found


@pytest.mark.parametrize("options", [{}, {"extractor_mode": "layer_norm"}, {"checkpoint_activations": True}])
def test_the_numbers_are_those_of_the_model(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    for (loss, gradient), (wanted, wanted_gradient) in zip(
        losses_and_gradients({"encoder_layers": 3, **options}, "aot_eager"),
        losses_and_gradients({"encoder_layers": 3, **options}, None),
        strict=True,
    ):
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_more_blocks_take_no_more_programs() -> None:
    counts = []
    for layers in (2, 5):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        losses_and_gradients({"encoder_layers": layers}, "aot_eager")
        assert not torch._dynamo.utils.counters["graph_break"]
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] == counts[1]


def test_it_runs_in_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("soundfile")
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    from toy_speech import prepare, pretraining

    data = prepare(tmp_path, 24)
    more = ["--compile", "--max-update", 2, "--encoder-layers", 2, "--log-format", "json"]
    assert train.main([str(item) for item in pretraining(data, tmp_path / "run", *more)]) == 0


def test_a_missing_compiler_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("soundfile")
    from toy_speech import prepare, pretraining

    data = prepare(tmp_path, 24)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    command = [str(item) for item in pretraining(data, tmp_path / "run", "--compile")]
    assert train.main(command) == 2
    assert "--compile needs a C++ compiler" in capsys.readouterr().err
