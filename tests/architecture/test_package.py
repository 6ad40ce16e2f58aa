"""What setup.py promises: programs that exist, extras that messages name, pins for everything that is required."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(p for folder in ("w2v", "w2v_cli", "examples") for p in (REPOSITORY / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def package() -> dict[str, Any]:
    """What setup.py tells setuptools."""
    setuptools = pytest.importorskip("setuptools")
    told: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **keywords: told.update(keywords))
        patch.chdir(REPOSITORY)
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return told


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_every_program_is_installed_and_every_installed_program_exists(package: dict[str, Any]) -> None:
    scripts = dict(line.split("=") for line in package["entry_points"]["console_scripts"])
    programs = {
        path.stem for path in (REPOSITORY / "w2v_cli").glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8")
    }
    assert scripts.pop("w2v") == "w2v.__main__:main"  # lists the programs
    assert {name.removeprefix("w2v-") for name in scripts} == programs
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_messages_about_missing_packages_name_extras_that_bring_them(package: dict[str, Any]) -> None:
    required = {_name(r) for r in package["install_requires"]}
    extras = {extra: {_name(r) for r in rs} | required for extra, rs in package["extras_require"].items()}
    named = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingPackageError":
                first, second = node.args[:2]
                assert isinstance(first, ast.Constant)
                assert isinstance(second, ast.Constant)
                named.append((f"{path}:{node.lineno}", first.value, second.value))
    assert named
    assert [(where, p, extra) for where, p, extra in named if _name(p) not in extras.get(extra, ())] == []


def test_everything_that_can_be_required_is_pinned(package: dict[str, Any]) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_name(line) for line in lines if line and not line.startswith("#")}
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    wanted = [*package["install_requires"], *(r for rs in package["extras_require"].values() for r in rs)]
    assert {_name(r) for r in wanted} - pinned == set()


def test_all_packages_of_the_library_are_packed(package: dict[str, Any]) -> None:
    folders = {
        p.parent.relative_to(REPOSITORY).as_posix().replace("/", ".") for p in FILES if "examples" not in p.parts
    }
    assert set(package["packages"]) == folders


def test_all_files_beside_the_code_are_packed(package: dict[str, Any]) -> None:
    packed: set[Path] = set()
    for name, patterns in package["package_data"].items():
        for pattern in patterns:
            packed |= set((REPOSITORY / name.replace(".", "/")).glob(pattern))
    beside = {
        path
        for folder in ("w2v", "w2v_cli")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts  # of Python and of numba
    }
    assert beside == packed


def test_the_licence_names_no_gpl_package_among_the_requirements(package: dict[str, Any]) -> None:
    # espeak-ng is GPL-3: only who asks for the demo (or for the tests) gets it.
    assert "espeakng-loader" not in {_name(r) for r in package["install_requires"]}
    for name in ("libespeak-ng", "espeak-ng-data"):
        assert not list(REPOSITORY.glob(f"w2v/**/{name}*"))
