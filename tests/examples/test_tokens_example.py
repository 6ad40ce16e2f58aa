"""The tokens example: its perplexities are those of chains that are known."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import load_script

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tokens"


def load(name: str) -> ModuleType:
    return load_script(FOLDER / f"{name}.py")


def test_counts_find_the_entropy_of_a_chain(tmp_path: Path) -> None:
    # From each of five codes to the next one or the one after, with equal chances: pairs need one bit. Both neighbours
    # tell the code where they are two or four apart (half of the time), and leave two where they are three apart.
    rng = np.random.default_rng(1)
    for split, lines in (("train", 100), ("valid", 200)):
        steps = rng.integers(1, 3, size=(lines, 300)).cumsum(axis=1) % 5
        (tmp_path / split).write_text("\n".join(" ".join(f"{code}-{code}" for code in row) for row in steps) + "\n")
    found = load("perplexity").count_perplexities(tmp_path / "train", tmp_path / "valid")
    assert found["perplexity, single codes"] == pytest.approx(5, rel=0.01)
    assert found["perplexity, pairs"] == pytest.approx(2, rel=0.01)
    assert found["perplexity, both neighbours"] == pytest.approx(2**0.5, rel=0.02)


def test_pieces_and_places(tmp_path: Path) -> None:
    module = load("perplexity")
    (tmp_path / "x").write_text(" ".join(["1-1"] * 260) + "\n\n2-2\n")
    pieces = module.read_pieces(tmp_path / "x")
    assert [len(piece) for piece in pieces] == [60, 60, 60, 60, 20, 1]
    assert [list(module.asked(piece)) for piece in pieces[3:]] == [[10, 30, 50], [10], []]


def test_the_commands_are_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from types import SimpleNamespace

    from w2v.training.options import parse_train_command

    module = load("run")
    calls: list[list[str]] = []
    monkeypatch.setattr(module, "count_perplexities", lambda *_: {})
    monkeypatch.setattr(module, "masked_perplexity", lambda *_: 2.0)
    monkeypatch.setattr(module, "probes", lambda *_: {"probe": 1.0})
    run = module.Run(tmp_path / "run", 1)
    monkeypatch.setattr(run, "call", lambda *words, log=None: calls.append([str(word) for word in words]))
    options = SimpleNamespace(speech="s", digits="d", ext="flac", seeds=2, quantizer_updates=3, updates=20)
    assert module.example(run, options) == {
        "perplexity, masked model, seed 1": 2.0, "perplexity, masked model, seed 2": 2.0, "probe": 1.0,
    }  # fmt: skip
    trainings = [parse_train_command(words[1:]).config for words in calls if words[0] == "w2v-train"]
    assert [config.optimization.max_update for config in trainings] == [3, 20, 20]
    assert [config.common.seed for config in trainings] == [1, 1, 2]
    assert trainings[1].task.config.mask_multiple_length == 3
