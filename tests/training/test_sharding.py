"""`--ddp-backend fully_sharded`: the numbers of DistributedDataParallel, and checkpoints that fit both.

Real models are trained by the real program, on two ranks that are forked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp  # here once, not in every child
from child import Ended, at_call, final_state, free_port, train_in_children
from toy_speech import ADAM, COMMON, finetuning, prepare, pretraining

from w2v.checkpoint.file import load_checkpoint
from w2v.config.sections import DistributedConfig
from w2v.errors import ConfigError
from w2v.training import fsdp as sharding
from w2v_cli import train

pytest.importorskip("soundfile")
SHARDED = ["--ddp-backend", "fully_sharded"]
SHORT = ["--max-update", 6, "--log-interval", 1, "--save-interval-updates", 3, "--validate-interval-updates", 3]
PRETRAINING = [
    *SHORT, "--max-tokens", 40000, "--encoder-layers", 3, "--encoder-layerdrop", 0.4, "--feature-grad-mult", 0.1,
    "--mask-prob", 0.4, "--dropout-input", 0.1, "--clip-norm", 1.0, "--update-freq", 2,
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    prepare(folder, 26)
    return folder


def train_on(folder: Path, arguments: list[Any], ranks: int = 2) -> str:
    """Run `w2v-train` on so many ranks; return what the first one says."""
    folder.mkdir(parents=True, exist_ok=True)
    port, children = free_port(), []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            variables = {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in variables.items()})
            _run_in_child(folder / f"log{rank}.txt", lambda: train.main([str(argument) for argument in arguments]))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    logs = [(folder / f"log{rank}.txt").read_text() for rank in range(ranks)]
    assert codes == [0] * ranks, logs
    return logs[0]


def _run_in_child(log: Path, program: Callable[[], int]) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        with open(log, "w") as stream:
            sys.stdout = sys.stderr = stream
            code = program()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def losses(log: str, tag: str) -> list[float]:
    lines = [json.loads(line.split(f"| {tag} | ")[1]) for line in log.splitlines() if f"| {tag} | " in line]
    return [float(line["loss" if tag == "train_inner" else f"{tag}_loss"]) for line in lines]


def assert_close(one: Any, other: Any, place: str = "") -> None:
    """Compare weights and states of optimizers that should differ by rounding alone."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=lambda text: f"{place}: {text}")
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            assert_close(one[key], other[key], f"{place}/{key}")
    else:
        assert one == other, place


def assert_alike(one: Path, other: Path) -> None:
    ours, theirs = (load_checkpoint(folder / "checkpoint_last.pt") for folder in (one, other))
    for key in ("model", "optimizer"):
        assert_close(ours[key], theirs[key], key)


def assert_sharding_changes_nothing(folder: Path, command: list[Any], tags: Sequence[str]) -> None:
    """Train in both ways; compare the losses of some lines of the log, and the last checkpoints."""
    logs = []
    for name, more in (("sharded", SHARDED), ("unsharded", [])):
        logs.append(train_on(folder / name, [*command, "--save-dir", folder / name, *more]))
    for tag in tags:
        assert losses(logs[0], tag) == pytest.approx(losses(logs[1], tag), rel=1e-5, abs=1e-3)
    assert_alike(folder / "sharded", folder / "unsharded")


@pytest.fixture(scope="module")
def unsharded(corpus: Path) -> tuple[Path, str]:
    """A pretraining run of two ranks with DistributedDataParallel, and its log."""
    folder = corpus / "unsharded"
    return folder, train_on(folder, pretraining(corpus / "data", folder, *PRETRAINING))


@pytest.fixture(scope="module")
def sharded(corpus: Path) -> tuple[Path, str]:
    folder = corpus / "sharded"
    return folder, train_on(folder, pretraining(corpus / "data", folder, *PRETRAINING, *SHARDED))


def test_the_same_losses_weights_and_moments(unsharded: tuple[Path, str], sharded: tuple[Path, str]) -> None:
    """With LayerDrop, masks, scaled gradients of the convolutions, clipping, accumulation and validation."""
    for tag in ("train_inner", "valid"):
        ours, theirs = losses(sharded[1], tag), losses(unsharded[1], tag)
        assert len(ours) > 1
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-3)  # three decimals are logged
    assert_alike(sharded[0], unsharded[0])
    assert "Warning" not in sharded[1]


def test_the_number_of_ranks_changes_nothing(corpus: Path, tmp_path: Path, unsharded: tuple[Path, str]) -> None:
    """Where updates hold the same batches: two from each of two ranks, or four from one."""
    log = train_on(tmp_path, [*pretraining(corpus / "data", tmp_path, *PRETRAINING), "--update-freq", 4], ranks=1)
    for tag in ("train_inner", "valid"):
        assert losses(log, tag) == pytest.approx(losses(unsharded[1], tag), rel=1e-5, abs=1e-3)
    assert_alike(tmp_path, unsharded[0])


@pytest.mark.parametrize("first", ["sharded", "unsharded"])
def test_checkpoints_fit_both(
    corpus: Path, tmp_path: Path, unsharded: tuple[Path, str], sharded: tuple[Path, str], first: str
) -> None:
    """Three updates in one way and three in the other, the moments of Adam included."""
    before, after = (SHARDED, []) if first == "sharded" else ([], SHARDED)
    command = pretraining(corpus / "data", tmp_path, *PRETRAINING)
    train_on(tmp_path, [*command, "--max-update", 3, *before])
    log = train_on(tmp_path, [*command, *after])
    assert "@ 3 updates)" in log
    assert_alike(tmp_path, unsharded[0])


@pytest.mark.usefixtures("quick_half")
def test_bfloat16(corpus: Path, tmp_path: Path) -> None:
    command = [*pretraining(corpus / "data", "SAVE", *PRETRAINING), "--max-update", 3, "--bf16", "--clip-norm", 0]
    assert_sharding_changes_nothing(tmp_path, command, ("train_inner",))


def test_fine_tuning_with_an_encoder_that_is_frozen_at_first(
    corpus: Path, tmp_path: Path, sharded: tuple[Path, str]
) -> None:
    """And with convolutions that always are; word errors come from validation, where ranks differ in batches."""
    command = finetuning(corpus / "data", "SAVE", sharded[0] / "checkpoint_last.pt", *SHORT, "--apply-mask")
    command += ["--freeze-finetune-updates", 2, "--feature-grad-mult", 0, "--layerdrop", 0.3, "--max-tokens", 60000]
    command += ["--max-update", 5, "--validate-after-updates", 0, "--batch-size-valid", 2]
    assert_sharding_changes_nothing(tmp_path, command, ("train_inner", "valid"))
    steps = {
        entry["step"]
        for entry in load_checkpoint(tmp_path / "sharded/checkpoint_last.pt")["optimizer"]["state"].values()
    }
    assert steps == {3, 5}


WAV2VEC = [
    "--arch", "wav2vec", "--criterion", "wav2vec", "--num-negatives", 5, "--prediction-steps", 3,
    "--conv-feature-layers", "[(16, 10, 5), (16, 8, 4), (16, 4, 4)]", "--skip-connections-agg",
    "--conv-aggregator-layers", "[(16, 2, 1), (16, 3, 1)]", "--loss-weights", "[1]", "--vq-vars", 8,
    "--max-sample-size", 12000, "--max-tokens", 60000, "--lr", 0.001,
]  # fmt: skip
TEXT = [
    "--task", "language_modeling", "--arch", "transformer_lm", "--criterion", "cross_entropy", "--lr", 0.005,
    "--decoder-embed-dim", 32, "--decoder-ffn-embed-dim", 64, "--decoder-layers", 3, "--decoder-attention-heads", 4,
    "--decoder-layerdrop", 0.3, "--adaptive-input", "--adaptive-input-cutoff", "5,9", "--adaptive-softmax-cutoff",
    "5,9", "--tie-adaptive-weights", "--tie-adaptive-proj", "--tokens-per-sample", 64, "--max-tokens", 256,
]  # fmt: skip
FAMILIES = {
    "wav2vec": [*WAV2VEC, "--infonce", "--cross-sample-negatives", 2],
    "gumbel": [*WAV2VEC, "--vq-type", "gumbel"],
    "kmeans": [*WAV2VEC, "--vq-type", "kmeans"],
    "text": TEXT,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_models(corpus: Path, tmp_path: Path, family: str) -> None:
    """Without transformer blocks, and with weights that input and output share."""
    data = corpus / "data"
    if family == "text":
        data = tmp_path / "text"
        data.mkdir()
        words = "the cat saw a dog and one more bird that sang to them all day in every tree of this old wood"
        for split in ("train", "valid"):
            (data / f"{split}.txt").write_text("\n".join(words[i:] for i in range(0, 80, 5)) + "\n")
    command = [data, *FAMILIES[family], *ADAM, *COMMON, *SHORT, "--max-update", 4]
    assert_sharding_changes_nothing(tmp_path, command, ("train_inner", "valid"))


# ------------------------------------------------------------------------------------------- a toy


def train_toy(folder: Path, options: dict[str, Any], fault: Any = None, **more: Any) -> list[Ended]:
    sharded = {**options, "distributed": {"ddp_backend": "fully_sharded"}}
    return train_in_children(folder, sharded, fault, **more)


@pytest.mark.parametrize(("num_batches", "num_valid"), [(1, 1), (5, 2)])
def test_uneven_shards_finish(tmp_path: Path, num_batches: int, num_valid: int) -> None:
    """Ranks need one another even to validate, so that one without batches of its own takes part with another's."""
    options = {
        "task": {"num_batches": num_batches, "num_valid": num_valid},
        "model": {"freeze_updates": 3},
        "optimization": {"max_update": 6},
    }
    for updates in (4, 6):  # eight rows over three ranks go through a checkpoint
        ended = train_toy(tmp_path / "sharded", {**options, "optimization": {"max_update": updates}}, ranks=3)
        assert [one.code for one in ended] == [0, 0, 0], ended
    assert [one.code for one in train_in_children(tmp_path / "unsharded", options, ranks=3)] == [0, 0, 0]
    ours, theirs = (final_state(tmp_path / name) for name in ("sharded", "unsharded"))
    assert ours["trainer"]["best"] == pytest.approx(theirs["trainer"]["best"], rel=1e-5)
    assert_close(ours["model"], theirs["model"])
    assert_close(ours["optimizer"], theirs["optimizer"])


def test_a_signal_to_one_rank_ends_a_validation_of_all(tmp_path: Path) -> None:
    def fault(trainer: Any) -> None:
        at_call(1, trainer.task, "valid_step", lambda: os.kill(os.getpid(), signal.SIGTERM))

    options = {"dataset": {"validate_interval_updates": 2}, "optimization": {"max_update": 6}}
    ended = train_toy(tmp_path, options, fault)
    assert [one.code for one in ended] == [0, 0], ended
    assert "a signal asked for it" in ended[0].log
    assert final_state(tmp_path)["trainer"]["num_updates"] == 2


def test_each_rank_holds_its_part_and_gradients_are_exchanged_once(tmp_path: Path) -> None:
    def fault(trainer: Any) -> None:
        whole = sum(parameter.numel() for parameter in trainer.model.parameters())
        held = sum(shard.numel() for shard in trainer.optimizer.parameters)
        assert held == whole / 2

        def not_yet() -> None:
            assert all(parameter.grad is None for parameter in trainer.model.parameters())

        at_call(2, trainer.task, "train_step", not_yet)  # the second micro-batch of the first update

        def now() -> None:
            for number, shard in enumerate(trainer.optimizer.parameters):
                assert shard.grad.shape == shard.shape == trainer.optimizer.state[number]["exp_avg"].shape

        at_call(2, trainer.optimizer, "step", now)

    ended = train_toy(tmp_path, {"optimization": {"update_freq": [2], "max_update": 2}}, fault)
    assert [one.code for one in ended] == [0, 0], ended


def test_want_of_memory_ends_all(tmp_path: Path) -> None:
    """The others are waiting for this rank's weights, so it cannot try again in smaller parts."""

    def fault(trainer: Any) -> None:
        def fail() -> None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        at_call(3, trainer.task, "train_step", fail)

    first, last = train_toy(tmp_path, {"optimization": {"update_freq": [2]}}, fault)
    assert (first.code, last.code) == (3, 3)
    assert "error: rank 1 (process " in first.log
    assert "when other ranks had begun to exchange weights; lower --max-tokens" in first.log


def test_an_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    monkeypatch.setattr(sharding, "world_size", lambda: 2)
    config = DistributedConfig(ddp_backend="fully_sharded")
    with pytest.raises(ConfigError, match=r"fully_sharded needs torch 2\.13 or newer, this is 2\.6\.0"):
        sharding.parallel_model(torch.nn.Linear(2, 2), torch.device("cpu"), config)
