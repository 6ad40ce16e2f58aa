"""Scripts of this repository (examples, benchmarks) as modules, and the programs that they call."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from toy_speech import call


def load_script(path: Path) -> ModuleType:
    """Return a script as a module, executed anew; its `main` is not called."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run_in_process(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the programs of an example run in this process, which has imported torch already.

    Args:
        script: the example; its `Run.call` is replaced.
        monkeypatch: takes that back.

    Returns:
        the programs that were called; it grows.
    """
    called: list[str] = []

    def in_process(self: object, program: str, *arguments: str | Path, log: Path | None = None) -> None:
        words = [str(argument) for argument in arguments]
        called.append(program)
        if not program.startswith("w2v-"):
            subprocess.run([sys.executable, program, *words], check=True, capture_output=True)
            return
        done = call(importlib.import_module(f"w2v_cli.{program.removeprefix('w2v-')}").main, words)
        assert done.code == 0, done.err
        if log is not None:
            log.write_text(done.out, encoding="utf-8")

    monkeypatch.setattr(script.Run, "call", in_process)
    return called
