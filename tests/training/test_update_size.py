"""`--batch-audio`: the published sizes, and the same updates on any number of ranks."""

from __future__ import annotations

import json
import logging
import os
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_speech import CONV, call, kept_logging, prepare, pretraining

from w2v.config.sections import audio_seconds
from w2v.distributed.process_group import process_group
from w2v.distributed.ranks import RankInfo
from w2v.errors import ConfigError
from w2v.training.build import batches_per_update, build_trainer
from w2v.training.options import parse_train_command
from w2v_cli import train

RATE = 16000


@pytest.mark.parametrize(
    ("text", "seconds"), [("1.6h", 5760), ("96m", 5760), ("5760s", 5760), (" .5 h ", 1800), ("90", 90), (7.5, 7.5)]
)
def test_times(text: Any, seconds: float) -> None:
    assert audio_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "-3s", "0m", "1h30m", "1e3", True, None, [1]])
def test_what_is_no_time(text: Any) -> None:
    with pytest.raises(ValueError, match="must be a time such as"):
        audio_seconds(text)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16, 32, 64])
def test_the_papers_sizes_are_the_published_commands(ranks: int) -> None:
    """BASE: 1.6 hours, 64 GPUs with 1.4 million samples each; LARGE: 2.7 hours, 128 GPUs with 1.2 million."""
    assert batches_per_update(1.6 * 3600 * RATE, 1_400_000, ranks) == 64
    assert batches_per_update(2.7 * 3600 * RATE, 1_200_000, ranks) == 128


def test_every_rank_gets_as_much_and_a_few_ranks_make_the_same_updates() -> None:
    for wanted in (1, 1.4, 1.6, 2, 3, 3.9, 4, 5, 6, 7.5, 9.9, 13, 40, 127.3):
        sizes = {}
        for ranks in range(1, int(wanted) + 1):
            sizes[ranks] = batches_per_update(wanted * 1000, 1000, ranks)
            assert sizes[ranks] % ranks == 0
            assert abs(sizes[ranks] - wanted) <= max(ranks, 4) / 2 or sizes[ranks] == ranks
        assert len({sizes[ranks] for ranks in (1, 2, 4) if ranks in sizes}) == 1
    with pytest.raises(ConfigError, match=r"one batch for each of 3 ranks, got 2900 .* lower --max-tokens to 966"):
        batches_per_update(2900, 1000, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--update-freq", 2, "--max-tokens", 1000], "--batch-audio and --update-freq exclude each other"),
        (["--max-tokens", 10**6], "--batch-audio must be at least one batch"),
        (["--max-tokens", 1000, "--batch-size", 4], "--batch-audio needs --max-tokens, and no --batch-size"),
    ],
)
def test_refused(options: list[Any], message: str) -> None:
    typed = [
        "data",
        "--arch",
        "wav2vec2",
        "--criterion",
        "wav2vec",
        "--lr",
        0.001,
        "--batch-audio",
        "2s",
        "--cpu",
        *options,
    ]
    outcome = call(train.main, typed)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err


def losses(ranks: int, command: list[str], folder: Path) -> list[float]:
    """Train in `ranks` forked processes; return the loss per term of each update."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        method = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                torch.set_num_threads(1)
                place = RankInfo(ranks, rank, rank, method)
                _train(place, command, folder / f"losses{ranks}.json")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * ranks
    found: list[float] = json.loads((folder / f"losses{ranks}.json").read_text())
    return found


def _train(place: RankInfo, command: list[str], file: Path) -> None:
    found: list[float] = []
    with process_group(place, cpu=True) as device:
        trainer = build_trainer(parse_train_command(command).config, device)
        add = trainer.log.add

        def added(report: Any, outcome: Any) -> None:
            found.append(outcome.loss / outcome.sample_size)
            add(report, outcome)

        trainer.log.add = added  # type: ignore[method-assign]
        trainer.train()
    if place.rank == 0:
        file.write_text(json.dumps(found))


def test_one_and_two_ranks_have_the_same_losses(tmp_path: Path) -> None:
    """With dropout, LayerDrop and random masks, over the end of an epoch; the schedule counts updates, as ever."""
    logging.getLogger().setLevel(logging.WARNING)
    with kept_logging():
        data = prepare(tmp_path, 40)
        arguments = pretraining(
            data, tmp_path / "run", "--max-tokens", 48000, "--batch-audio", "17s", "--max-update", 5, "--no-save",
            "--disable-validation", "--log-format", "none", "--encoder-layerdrop", 0.2, "--dropout", 0.1,
            "--conv-feature-layers", CONV, "--lr", 0.01, "--warmup-updates", 2,
        )  # fmt: skip
        command = [str(argument) for argument in arguments]
        one, two = losses(1, command, tmp_path), losses(2, command, tmp_path)
    assert len(one) == 5
    assert max(one) - min(one) > 0.01
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=0, atol=1e-4)
