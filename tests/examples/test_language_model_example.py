"""The language model example: the text is split as it says, its commands are ones that the programs take."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from w2v.models.transformer_lm import TransformerLmConfig
from w2v.training.options import parse_train_command
from w2v_cli import lm

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "language_model" / "train.sh"


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_commands_of_the_script(tmp_path: Path) -> None:
    # Stand-ins that keep their arguments, one per line, in a file per call.
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    for folder in (programs, calls):
        folder.mkdir()
    for name in ("w2v-train", "w2v-lm"):
        stand_in = programs / name
        number = f'$(ls "{calls}" | wc -l | tr -d " ")'
        stand_in.write_text(f'#!/bin/sh\nfor a in "$@"; do echo "$a"; done > "{calls}/{number}.{name}"\n')
        stand_in.chmod(0o755)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"LINE {number}\n" for number in range(1, 121)))
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    out = tmp_path / "out"
    subprocess.run(["sh", SCRIPT, text, out, "--max-update", "3"], env=environment, check=True, timeout=60)
    assert (out / "words/valid.txt").read_text() == "LINE 50\nLINE 100\n"
    assert len((out / "letters/train.txt").read_text().splitlines()) == 118
    assert (out / "letters/spelled.txt").read_text() == "L I N E | 5 0 |\nL I N E | 1 0 0 |\n"
    recorded = {path.suffix: [] for path in calls.iterdir()}
    for path in sorted(calls.iterdir(), key=lambda path: int(path.stem)):
        recorded[path.suffix].append(path.read_text().splitlines())
    words, letters = (parse_train_command(arguments).config for arguments in recorded[".w2v-train"])
    for config in (words, letters):
        assert isinstance(config.model.config, TransformerLmConfig)
        assert config.optimization.max_update == 3
    assert (words.task.config.unit, letters.task.config.unit) == ("word", "letter")
    assert len(recorded[".w2v-lm"]) == 4
    for arguments in recorded[".w2v-lm"]:
        assert lm._parse(arguments)
