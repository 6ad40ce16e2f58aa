"""What is imported, and when: `import w2v` needs torch and numpy only, and some packages are imported nowhere."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted([*REPOSITORY.glob("w2v/**/*.py"), *REPOSITORY.glob("w2v_cli/**/*.py")])
MODULES = sorted(".".join(p.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for p in FILES)

PROGRAMS = [
    f"w2v_cli.{path.stem}"
    for path in FILES
    if path.parent.name == "w2v_cli" and "\ndef main(" in path.read_text(encoding="utf-8")
]
IDS = [p.relative_to(REPOSITORY).as_posix() for p in FILES]

# Imported inside the function that uses them, so that nobody pays for what is not used.
LATE = {
    *("soundfile", "soxr", "kenlm", "flashlight", "tensorboardX", "yaml", "tqdm", "editdistance", "sacrebleu"),
    *("h5py", "matplotlib", "PIL", "sklearn", "safetensors", "scipy", "espeakng_loader"),
}
# Other roads to the same end, that this project must not depend on.
NEVER = {"torchaudio", "fairseq", "fairseq2", "hydra", "omegaconf", "pyctcdecode", "transformers", "dill"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def _run(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_every_module_loads_no_late_package() -> None:
    # torch may load packages of this list of its own accord, so what it brings is taken off.
    count = "import sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    with_torch = set(_run(f"import numpy, torch\n{count}").split())
    with_all = set(_run(f"import {', '.join(MODULES)}\n{count}").split())
    assert with_all & (LATE | NEVER) <= with_torch & (LATE | NEVER)
    assert (with_all - with_torch) - set(sys.stdlib_module_names) <= {"w2v", "w2v_cli"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_forbidden_import(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] not in NEVER, f"{path}:{getattr(node, 'lineno', 0)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_nothing_is_evaluated_and_nothing_prints_in_the_library(path: Path) -> None:
    in_library = path.is_relative_to(REPOSITORY / "w2v")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            where = f"{path}:{node.lineno}: {node.func.id}()"
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), where
            assert not (in_library and node.func.id == "print"), where


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_safe_loading(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        call = ast.unparse(node.func)
        where = f"{path}:{node.lineno}: {call}()"
        if call == "torch.load":
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("weights_only") == "True", where
        assert call not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"), where
        assert not call.startswith("pickle."), where  # its errors may be named, its functions not called


def test_there_are_programs() -> None:
    assert "w2v_cli.train" in PROGRAMS


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_exits_0(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", program, "--help"], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    assert done.stderr == ""


def _processor_seconds(command: list[str]) -> float:
    # Not seconds of the clock, which would measure what else runs on this machine.
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_takes_at_most_half_as_long_again_as_importing_torch() -> None:
    commands = ([sys.executable, "-c", "import torch"], [sys.executable, "-m", "w2v_cli.train", "--help"])
    torch_alone = with_help = math.inf
    # The least of up to six rounds: neighbours in the processor's caches cost processor time, too.
    for _ in range(6):
        took = [_processor_seconds(command) for command in commands]
        torch_alone, with_help = min(torch_alone, took[0]), min(with_help, took[1])
        if with_help <= 1.5 * torch_alone:
            break
    assert with_help <= 1.5 * torch_alone
