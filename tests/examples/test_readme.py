"""Every command of the README is one that the programs take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def _commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


COMMANDS = _commands()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "w2v-train"], ids=lambda c: c[-1])
def test_training_commands_parse(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from w2v_cli.train import main

    assert main([*command[1:], "--print-config"]) == 0
    assert "_name" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "w2v-infer"], ids=lambda c: " ".join(c[1:3]))
def test_inference_commands_parse(command: list[str]) -> None:
    from w2v_cli.emission_source import SourceConfig
    from w2v_cli.infer_flags import parse_flags
    from w2v_cli.infer_output import OutputConfig
    from w2v_cli.tune import TuneConfig

    program, *rest = command
    kinds = {"emissions": SourceConfig, "output": TuneConfig if rest[0] == "tune" else OutputConfig}
    config, *_ = parse_flags(rest[rest[0] == "tune" :], program, "", **kinds)
    assert config.gen_subset == "valid"


def test_make_commands_are_targets_and_ci_runs_one() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = {command[1] for command in COMMANDS if command[0] == "make"}
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_programs_of_the_table_are_installed() -> None:
    named = set(re.findall(r"^\| `(w2v-\w+)` \|", README, re.MULTILINE))
    for program in named:
        assert f'"{program.removeprefix("w2v-")}"' in (REPOSITORY / "setup.py").read_text(encoding="utf-8")
        assert (REPOSITORY / "w2v_cli" / f"{program.removeprefix('w2v-')}.py").is_file()
