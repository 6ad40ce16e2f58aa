"""Under autocast, losses, softmax, norms, Gumbel noise and cosines are computed in float32.

Watched where torch dispatches to its kernels, below autocast: what a kernel is given there is what it computes with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_memory import trainer_of
from torch.utils._python_dispatch import TorchDispatchMode
from toy_speech import prepare

from w2v.criterions.ctc import ctc_loss
from w2v.criterions.wav2vec_criterion import Wav2VecCriterion, Wav2VecCriterionConfig
from w2v.types import AudioBatch, ContrastiveOutput

pytest.importorskip("soundfile")

# Kernels by a part of their name. Two are left out: fused attention, whose softmax is in float32 inside, and layer
# norm, which autocast gives float32 on a GPU only; see the last test.
IN_FLOAT32 = (
    "softmax", "nll_loss", "ctc_loss", "cross_entropy", "mse_loss", "softplus", "group_norm", "vector_norm",
    "exponential", "rsqrt", "aten.exp.", "aten.log.", "aten.log_.",
)  # fmt: skip
EXPECTED = {
    "wav2vec": {"log_softmax", "nll_loss", "group_norm"},
    "gumbel": {"log_softmax", "nll_loss", "group_norm", "softmax", "exponential", "aten.log_.", "aten.exp."},
    "kmeans": {"log_softmax", "nll_loss", "group_norm", "mse_loss"},
    "wav2vec2": {"log_softmax", "nll_loss", "softmax", "exponential", "vector_norm", "aten.log_."},
    "wav2vec2_padded": {"log_softmax", "nll_loss", "softmax", "exponential", "vector_norm"},
    "ctc": {"log_softmax", "ctc_loss"},
}


class Watch(TorchDispatchMode):
    """Notes with which number formats the kernels above are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(part in name for part in IN_FLOAT32):
            tensors = [item for item in args if isinstance(item, torch.Tensor) and item.is_floating_point()]
            self.seen.setdefault(name, set()).update(tensor.dtype for tensor in tensors)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("formats"), 12)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", EXPECTED)
def test_islands_of_float32(kind: str, half: torch.dtype, data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(kind, data, tmp_path)
    trainer.step.half = half
    ((batch, _),) = next(trainer.batches.updates(1))
    with Watch() as watch:
        loss = trainer.step.train_loss(trainer.model.train(), batch)
    assert loss.value.dtype == torch.float32
    assert loss.value.isfinite()
    for part in EXPECTED[kind]:
        assert any(part in name for name in watch.seen), f"{part} not among {sorted(watch.seen)}"
    assert {name: dtypes for name, dtypes in watch.seen.items() if dtypes - {torch.float32, torch.float64}} == {}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_layer_norm_on_a_cpu_is_float32_inside(half: torch.dtype) -> None:
    """It takes and returns half precision; sums of squares beyond 65504, where float16 ends, do it no harm."""
    x = (torch.randn(50, 512, generator=torch.Generator().manual_seed(1)) * 200.0).to(half)
    norm = torch.nn.LayerNorm(512)
    with torch.autocast("cpu", half):
        found = norm(x)
    torch.testing.assert_close(found.float(), norm(x.float()), rtol=torch.finfo(half).eps, atol=1e-4)


@pytest.mark.parametrize("infonce", [True, False])
def test_large_half_logits_give_the_loss_of_float32(infonce: bool) -> None:
    logits = (torch.randn(20, 11, generator=torch.Generator().manual_seed(1)) * 2e4).clamp(-6e4, 6e4).half()
    criterion = Wav2VecCriterion(Wav2VecCriterionConfig(infonce=infonce))
    batch = AudioBatch(torch.zeros(1, 1), torch.ones(1), torch.zeros(1), 1)
    expected = criterion(ContrastiveOutput(logits.double()), batch).value
    with torch.autocast("cpu", torch.float16):
        found = criterion(ContrastiveOutput(logits), batch).value
    assert found.isfinite()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0, check_dtype=False)


def test_large_half_scores_give_the_ctc_loss_of_float32() -> None:
    logits = (torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(1)) * 2e4).clamp(-6e4, 6e4).half()
    lengths, targets = torch.tensor([30, 25]), torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    target_lengths = torch.tensor([4, 2])
    expected = ctc_loss(logits.float(), lengths, targets, target_lengths, zero_infinity=False)
    with torch.autocast("cpu", torch.float16):
        found = ctc_loss(logits, lengths, targets, target_lengths, zero_infinity=False)
    assert found.isfinite()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
