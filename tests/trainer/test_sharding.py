"""`--ddp-backend fully_sharded`: the numbers of DistributedDataParallel, and checkpoints that fit both.

Real models are trained by the real program, on two ranks that are forked.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from child import assert_same, final_state, free_port, train_in_child, train_in_children
from toy_speech import call, finetuning, prepare, pretraining

from w2v import sharding
from w2v.checkpoint import load_checkpoint
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
