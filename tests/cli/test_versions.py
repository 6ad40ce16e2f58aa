"""Every program says its version; those that need no torch explain themselves without loading it."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from toy_speech import call

from w2v.__main__ import programs
from w2v.version import __version__

NAMES = sorted({name.split()[0].removeprefix("w2v-") for name, _ in programs()})
REPOSITORY = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = ("align", "labels", "lm", "manifest", "segment", "transcribe", "visualize")


@pytest.mark.parametrize("name", NAMES)
def test_version(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"w2v_cli.{name}")
    with contextlib.suppress(SystemExit):
        assert module.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_help_without_torch() -> None:
    """One process explains them all: what none of them loads, each alone does not load."""
    code = "import contextlib, importlib, sys\n" + (
        f"for name in {WITHOUT_TORCH}:\n    main = importlib.import_module(f'w2v_cli.{{name}}').main\n"
        "    for option in ('--help', '--version'):\n        sys.argv = [f'w2v-{name}', option]\n"
        "        with contextlib.suppress(SystemExit):\n            main()\n"
        "    assert 'torch' not in sys.modules, f'w2v-{name} loads torch'\n"
        "assert len(sys.modules) < 500, sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"usage: w2v-{name} " in done.stdout for name in WITHOUT_TORCH)


def test_the_list_of_programs() -> None:
    for option in ([], ["--version"]):
        command = [sys.executable, "-m", "w2v", *option]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert __version__ in done.stdout
        assert option or all(f"w2v-{name}" in done.stdout for name in NAMES)


def test_recipe_help_names_files_that_are_packaged() -> None:
    from w2v_cli import train

    assert "base-1gpu" in call(train.main, ["--recipe", "help"]).out
    assert "config/recipes/*.yaml" in (REPOSITORY / "setup.py").read_text(encoding="utf-8")
