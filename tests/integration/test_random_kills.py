"""The programs, killed at random with every kind of model; `benchmarks/random_kills.py` does it a hundred times."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script
from toy_speech import prepare

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/random_kills.py"

pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("kills"), 60)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(SCRIPT)


@pytest.mark.parametrize("kind", ["wav2vec", "vq-wav2vec gumbel", "wav2vec2", "ctc"])
def test_killed_runs_end_like_others(kind: str, data: Path, tmp_path: Path, script: ModuleType) -> None:
    counts = script.torment(kind, data, tmp_path, 2, random.Random(kind))
    assert counts["kills"] == 2
    assert counts["ends compared"] >= 1
