"""The demo's own parts, and the whole of it in seconds on a folder of noise with made-up transcripts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import load_script

from w2v.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "examples" / "demo"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
SENTENCES = ["UP UP DOWN", "DOWN UP", "LEFT", "UP LEFT DOWN DOWN"]


def _load(name: str) -> ModuleType:
    return load_script(FOLDER / f"{name}.py")


@pytest.fixture(scope="module")
def run() -> ModuleType:
    return _load("run")


def test_a_folder_with_other_files_is_left_alone(run: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--folder .* not from this demo"):
        run.make_folder(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


def test_a_folder_of_an_earlier_demo_is_emptied(run: ModuleType, tmp_path: Path) -> None:
    folder = run.make_folder(tmp_path / "run")
    (folder / "old").mkdir()
    assert not list(run.make_folder(folder).glob("old"))


def test_a_shown_command_is_the_one_that_runs(run: ModuleType) -> None:
    stages = sys.modules[run.Run.__module__]

    words = ["w2v-train", "a folder", *(f"--flag-{i} ('{i}', 2)" for i in range(40))]
    assert shlex.split(stages.shown(words).replace("\\\n", " ")) == words


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Twelve clips of noise whose transcripts mean nothing."""
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    folder, rng = tmp_path / "noise", np.random.default_rng(1)
    folder.mkdir()
    lines = []
    for i in range(12):
        soundfile.write(folder / f"{i}.flac", 0.1 * rng.standard_normal(16000), 16000)
        lines.append(f"{i}.flac\t{SENTENCES[i % len(SENTENCES)]}\n")
    (folder / "transcripts.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


def _demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FOLDER / "run.py", "--cores", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=800)


@pytest.mark.timeout(900)
def test_the_whole_line_on_a_folder_of_ones_own(noise: Path, tmp_path: Path) -> None:
    updates = ("--pretrain-updates", "2", "--finetune-updates", "2")
    done = _demo("--data", noise, "--folder", tmp_path / "run", *updates)
    assert done.returncode == 0, done.stderr
    assert "$ w2v-train" in done.stdout
    assert "reference: " in done.stdout
    assert "hypothesis: " in done.stdout
    assert "WER with viterbi: " in done.stdout
    assert "WER with kenlm: " in done.stdout  # no compiler and no further package is needed for it
    (picture,) = (tmp_path / "run" / "picture").glob("*.png")
    assert f"the picture is {picture}" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    following = done.stdout.partition("== what comes next")[2].splitlines()[1:]
    commands = [shlex.split(line) for line in following if line.startswith("w2v-")]
    assert [words[0] for words in commands] == ["w2v-transcribe", "w2v-visualize", "w2v-manifest"]
    assert Path(commands[0][1]).is_file()
    assert Path(commands[0][2]).is_file()


def test_a_folder_without_transcripts_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = _demo("--data", tmp_path / "empty", "--folder", tmp_path / "run")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "transcripts.tsv" in done.stderr
