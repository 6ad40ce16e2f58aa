"""The digits example: it runs from end to end at toy size, resumes where it was, and its parts do what they say."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from digit_packs import link_few_clips
from scripts import load_script

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples" / "digits" / "run.py"
# The models trained on few minutes are left out: their programs are the same, and each takes seconds to start.
TOY = (
    *("--threads", "1", "--minutes", "0.4", "--few-minutes", "0.2"),
    *("--pretrain-updates", "2", "--finetune-updates", "2", "--few-updates", "0"),
)


@pytest.fixture(scope="module")
def run() -> ModuleType:
    """The script as a module."""
    return load_script(SCRIPT)


@pytest.fixture
def few_clips(data: Path, tmp_path: Path) -> Path:
    """The packs of digits with links to a few clips each."""
    return link_few_clips(data, tmp_path / "data")


def _call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=800)


@pytest.mark.slow
@pytest.mark.timeout(900)  # seventeen programs, of two to three seconds each where nothing else runs
def test_all_stages_at_toy_size_and_none_twice(few_clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = _call("--data", few_clips, "--folder", folder, *TOY)
    assert first.returncode == 0, first.stderr
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    models = {row["model"] for row in content["results"] if row["decoder"] == "kenlm"}
    assert models == {"ft20"}
    assert {row["decoder"] for row in content["results"]} == {"viterbi", "kenlm"}
    for row in content["results"]:
        texts = (few_clips / row["set"] / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
        assert row["words"] == sum(len(line.split("\t")[1].split()) for line in texts)
    assert all(seconds["cpu"] > 0 for seconds in content["seconds"].values())

    again = _call("--data", few_clips, "--folder", folder, *TOY)
    assert again.returncode == 0, again.stderr
    assert "w2v-" not in again.stdout
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"] == content["results"]
    with open(folder / "curves.csv", encoding="utf-8", newline="") as file:
        curves = {(row["run"], row["quantity"]) for row in csv.DictReader(file)}
    assert {("pretrain", "accuracy"), ("ft20", "wer"), ("ft20", "loss")} <= curves


def test_a_folder_without_the_packs_is_named(tmp_path: Path) -> None:
    done = _call("--data", tmp_path, "--folder", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr == f"digits: --data {tmp_path}: there is no fsdd16k\n"


def test_a_subset_lasts_as_long_as_asked_and_is_the_same_every_time(run: ModuleType, tmp_path: Path) -> None:
    lines = [f"{i}.flac\t{16000 + i}" for i in range(100)]
    (tmp_path / "all.tsv").write_text("\n".join(["/root", *lines, ""]), encoding="utf-8")
    for name in ("one.tsv", "two.tsv"):
        run.write_subset(tmp_path / "all.tsv", tmp_path / name, 30)
    root, *chosen = (tmp_path / "one.tsv").read_text(encoding="utf-8").splitlines()
    assert root == "/root"
    assert set(chosen) < set(lines)
    assert 29 <= len(chosen) <= 30
    assert chosen != lines[: len(chosen)]
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()
