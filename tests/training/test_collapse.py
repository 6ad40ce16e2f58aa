"""Collapse is told of after it has lasted, once, with likely causes; and not where there is none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_speech import call, prepare, pretraining

from w2v.checkpoint.file import load_checkpoint
from w2v.errors import TrainingError
from w2v.training.collapse import EARLY, SUSTAINED, CollapseMonitor
from w2v_cli import train

PAPER = (2, 320)


def told(
    caplog: pytest.LogCaptureFixture, values: Mapping[int, Mapping[str, float]], codebook: tuple[int, int] = PAPER
) -> list[str]:
    """Return the warnings that lines, by number of updates, give rise to."""
    caplog.clear()
    monitor = CollapseMonitor(codebook, stop=False)
    for num_updates, line in values.items():
        monitor.look_at({"num_updates": num_updates, **line})
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def lasting(updates: int, **line: float) -> dict[int, dict[str, float]]:
    return dict.fromkeys(range(100, updates + 1, 100), line)


def test_a_collapsed_codebook_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = told(caplog, lasting(20_000, code_perplexity=7.9))
    assert "code_perplexity has been near its floor of 2 (it is 7.9) for 500 updates; likely causes: " in message
    assert "--loss-weights" in message
    assert "\n" not in message
    (message,) = told(caplog, lasting(2000, code_perplexity=2.0))
    assert message.startswith("all frames have had the same code (code_perplexity 2)")


def test_what_passes_or_is_normal_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    assert not told(caplog, lasting(20_000, code_perplexity=8.1))
    assert not told(caplog, lasting(SUSTAINED, code_perplexity=2.0))
    recovering = {**lasting(5000, code_perplexity=2.0), **{n: {"code_perplexity": 90.0} for n in range(500, 5000, 500)}}
    assert not told(caplog, recovering)
    assert not told(caplog, lasting(5000, code_perplexity=2.0), codebook=(0, 0))
    assert not told(caplog, lasting(5000, loss=3.0))
    # In a small codebook few codes are many; one code is one in any.
    assert not told(caplog, lasting(5000, code_perplexity=2.5), codebook=(2, 8))
    assert told(caplog, lasting(5000, code_perplexity=2.0), codebook=(2, 8))


def test_it_is_told_of_again_after_a_recovery(caplog: pytest.LogCaptureFixture) -> None:
    values = lasting(3000, code_perplexity=2.0)
    values[1500] = {"code_perplexity": 200.0}
    assert len(told(caplog, values)) == 2


def test_accuracy_counts_while_it_is_early(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = told(caplog, lasting(2000, accuracy=0.985, code_perplexity=300.0))
    assert "accuracy has been above 0.98 (it is 0.985) for 500 updates; likely causes: masks or negatives" in message
    assert not told(caplog, lasting(2000, accuracy=0.97))
    assert not told(caplog, {n: {"accuracy": 0.99} for n in range(EARLY - 300, EARLY + 5000, 100)})


def test_it_may_stop_and_survives_a_restart() -> None:
    first = CollapseMonitor(PAPER, stop=True)
    for n in (100, 200, 300):
        first.look_at({"num_updates": n, "code_perplexity": 3.0})
    second = CollapseMonitor(PAPER, stop=True)
    second.load_state_dict(first.state_dict())
    second.look_at({"num_updates": 500, "code_perplexity": 3.0})
    with pytest.raises(TrainingError, match=r"for 500 updates.*--on-collapse stop"):
        second.look_at({"num_updates": 600, "code_perplexity": 3.0})
    assert TrainingError.exit_code == 3


@pytest.mark.parametrize("reaction", ["warn", "stop"])
def test_a_run_that_collapses(reaction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the diversity loss, at a much too high rate, and the run ends, or not."""
    pytest.importorskip("soundfile")
    monkeypatch.setattr("w2v.training.collapse.SUSTAINED", 10)
    data = prepare(tmp_path, 12)
    options: list[Any] = ["--loss-weights", "[0, 10]", "--latent-vars", 8, "--lr", 0.5, "--warmup-updates", 1]
    options += ["--max-update", 40, "--log-interval", 5, "--disable-validation", "--on-collapse", reaction]
    outcome = call(train.main, pretraining(data, tmp_path / "run", *options))
    assert outcome.code == (3 if reaction == "stop" else 0), outcome.err
    said = outcome.err if reaction == "stop" else outcome.out
    assert "same code" in said
    assert "likely causes" in said
    num_updates = load_checkpoint(tmp_path / "run/checkpoint_last.pt")["trainer"]["num_updates"]
    assert (num_updates == 40) is (reaction == "warn")
