"""A batch that a GPU's memory does not hold goes through in parts, with the result of the undivided batch.

The GPU is played by convolutions and transformer blocks that refuse more than so many clips at a time.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import KINDS, small_trainer
from toy_speech import prepare
from toy_training import make_trainer

from w2v.errors import TrainingError
from w2v.modules.chunking import chunks
from w2v.modules.conv_encoder import ConvEncoder
from w2v.modules.conv_feature_extractor import ConvFeatureExtractor
from w2v.modules.transformer_encoder import TransformerEncoder

pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("memory"), 24)


def trainer_of(kind: str, data: Path, folder: Path) -> Any:
    more = ["--max-tokens", 10**6, "--batch-size", 8, "--curriculum", 1, "--disable-validation"]
    return small_trainer(KINDS[kind], data, folder, torch.device("cpu"), *more)


def one_step(trainer: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the gradient and the sums of one update, made of a batch of 8."""
    (micro_batch,) = next(trainer.batches.updates(1))
    assert micro_batch[0].num_items == 8
    trainer.batches.position = 0
    trainer.train_step([micro_batch])
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    window = trainer.log.meter.collect()
    sums = {**window.sums, "loss": window.steps["loss"], "gnorm": window.steps["gnorm"]}
    return gradient, sums


class SmallGpu:
    """Lets parts of models fail with more than `limit` clips."""

    def __init__(self) -> None:
        self.limit = 10**9
        self.most = 0

    def play(self, patch: pytest.MonkeyPatch) -> None:
        for part, method in ((ConvEncoder, "forward"), (ConvFeatureExtractor, "forward"), (TransformerEncoder, "_run")):
            patch.setattr(part, method, self._limited(getattr(part, method)))

    def _limited(self, forward: Any) -> Any:
        def limited(module: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if len(x) > self.limit:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")
            self.most = max(self.most, len(x))
            return forward(module, x, *args, **kwargs)

        return limited


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SmallGpu:
    small = SmallGpu()
    small.play(monkeypatch)
    return small


@pytest.mark.parametrize("kind", KINDS)
def test_parts_give_the_result_of_the_whole(
    kind: str, data: Path, tmp_path: Path, gpu: SmallGpu, caplog: pytest.LogCaptureFixture
) -> None:
    """With negatives from other clips, Gumbel noise, diversity and penalties, which are of the whole batch."""
    gradient, sums = one_step(trainer_of(kind, data, tmp_path / "a"))
    gpu.limit, gpu.most = 3, 0
    trainer = trainer_of(kind, data, tmp_path / "b")
    with caplog.at_level(logging.WARNING):
        in_parts, sums_in_parts = one_step(trainer)
    torch.testing.assert_close(in_parts, gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))
    assert sums_in_parts == pytest.approx(sums, rel=1e-5)
    assert gpu.most == 2
    messages = [message for message in caplog.messages if "out of GPU memory" in message]
    assert [message.partition("trying again in ")[2][0] for message in messages] == ["2", "4"]
    assert "a batch of 8 clips" in messages[0]
    assert "\n" not in messages[0]
    # It has learnt: the next batch of this size does not fail first.
    caplog.clear()
    one_step(trainer)
    assert not [message for message in caplog.messages if "out of GPU memory" in message]


@pytest.mark.parametrize("kind", ["wav2vec", "wav2vec2", "ctc"])
def test_parts_are_forgotten_on_the_way(kind: str, data: Path, tmp_path: Path) -> None:
    """What the way back needs is not kept for each part, but for one part at a time."""
    trainer = trainer_of(kind, data, tmp_path)
    (micro_batch,) = next(trainer.batches.updates(1))
    assert kept_bytes(trainer, micro_batch[0], parts=4) < 0.4 * kept_bytes(trainer, micro_batch[0], parts=1)


def kept_bytes(trainer: Any, batch: Any, parts: int) -> int:
    """Return the size of all that the forward pass keeps, each storage counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with chunks(parts), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainer.step.train_loss(trainer.model.train(), batch)
    parameters = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    loss.value.backward()
    return sum(size for place, size in kept.items() if place not in parameters)


def test_validation_is_divided_too(data: Path, tmp_path: Path, gpu: SmallGpu) -> None:
    expected = trainer_of("wav2vec2", data, tmp_path / "a")
    expected.validate()
    one = expected._validator.evaluate(expected.model, "valid", expected.dataset, lambda: False)
    gpu.limit = 1
    other = expected._validator.evaluate(expected.model, "valid", expected.dataset, lambda: False)
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_clip_that_does_not_fit_alone_ends_training(data: Path, tmp_path: Path, gpu: SmallGpu) -> None:
    gpu.limit = 0
    with pytest.raises(TrainingError, match=r"even clip by clip; lower --max-tokens \(CUDA out of memory.*GiB\.\)$"):
        one_step(trainer_of("wav2vec2", data, tmp_path))


def test_a_failure_on_the_way_back_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole update is done again, with the gradients of micro-batches that had gone well."""
    expected = make_trainer(tmp_path / "a")
    batches = next(expected.batches.updates(3))
    expected.train_step(batches)
    trainer = make_trainer(tmp_path / "b")
    backward, calls = torch.Tensor.backward, []

    def fails_once(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        backward(tensor, *args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.Tensor, "backward", fails_once)
    trainer.train_step(batches)
    assert len(calls) == 5
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor)
    assert trainer.log.meter.collect().sums == expected.log.meter.collect().sums


def test_what_other_ranks_wait_for_cannot_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path)
    batches = next(trainer.batches.updates(2))
    memory = trainer.step.memory

    def fails(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        memory.is_shared = True
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.Tensor, "backward", fails)
    with pytest.raises(TrainingError, match="other ranks had begun to exchange gradients; lower --max-tokens"):
        trainer.train_step(batches)


def test_what_does_not_fit_beside_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments of Adam are made by its first step."""
    trainer = make_trainer(tmp_path)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nof capacity")

    monkeypatch.setattr(trainer.optimizer, "step", fails)
    with pytest.raises(TrainingError, match=r"lower --max-tokens .* --ddp-backend fully_sharded \(CUDA .*GiB\)$"):
        trainer.train_step(next(trainer.batches.updates(2)))
