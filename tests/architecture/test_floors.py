"""A file imports only from lower floors, and the wings of F2 have no doors between them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# The longest name that matches decides. A package may import itself, whatever its floor.
FLOORS = {
    # F0
    "w2v": 0,
    "w2v.errors": 0,
    "w2v.registry": 0,
    "w2v.config": 0,
    "w2v.config_file": 0,
    "w2v.plugins": 0,
    "w2v.retired": 0,
    "w2v.rng": 0,
    "w2v.distributed": 0,
    "w2v.cpu": 0,
    "w2v.heartbeat": 0,
    "w2v.interrupt": 0,
    "w2v.meeting": 0,
    "w2v.memory_use": 0,
    "w2v.types": 0,
    "w2v.update_size": 0,
    "w2v.functional": 0,
    # F1
    "w2v.modules": 1,
    "w2v.data": 1,
    "w2v.optim": 1,
    "w2v.lm": 1,
    "w2v.metrics": 1,
    "w2v.progress": 1,
    "w2v.checkpoint": 1,
    "w2v.checkpoint_manager": 1,
    "w2v.collapse": 1,
    "w2v.compiled": 1,
    "w2v.folder_lock": 1,
    "w2v.memory": 1,
    "w2v.torch_file": 1,
    "w2v.unpickle": 1,
    "w2v.sections": 1,
    "w2v.cadence": 1,
    "w2v.update_report": 1,
    "w2v.parallel": 1,
    "w2v.sharding": 1,
    # F2
    "w2v.models": 2,
    "w2v.criterions": 2,
    "w2v.decoders": 2,
    "w2v.scoring": 2,
    # F3
    "w2v.tasks": 3,
    "w2v.convert": 3,
    # F4
    "w2v.options": 4,
    "w2v.build": 4,
    "w2v.dry_run": 4,
    "w2v.evaluation": 4,
    "w2v.emit": 4,
    "w2v.encode": 4,
    "w2v.inference": 4,
    "w2v.trainer": 4,
    "w2v.training_log": 4,
    "w2v.transcribe": 4,
    # F5
    "w2v_cli": 5,
}

# Concrete models, criterions and tasks meet through registries and typed values only.
WINGS = ("w2v.models", "w2v.criterions", "w2v.tasks")


def _module(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """Return the name in `FLOORS` that `module` belongs to."""
    name = module
    while name not in FLOORS:
        name = name.rpartition(".")[0]
        if not name:
            raise KeyError(module)
    if name == "w2v" and module != "w2v":
        raise KeyError(module)
    return name


FILES = sorted([*REPOSITORY.glob("w2v/**/*.py"), *REPOSITORY.glob("w2v_cli/**/*.py")])
MODULES = {_module(path) for path in FILES}


def _imports(path: Path) -> list[tuple[int, str]]:
    """Return line and module of each import of our own, those inside functions and `if TYPE_CHECKING` included."""
    found = []
    module = _module(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            # `from w2v import models` names a module; `from w2v.errors import DataError` a thing within one
            names = (f"{source}.{alias.name}" for alias in node.names)
            found += [(node.lineno, name if name in MODULES else source) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] in ("w2v", "w2v_cli")]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_file_has_a_floor(module: str) -> None:
    _room(module)


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_imports_go_downwards(path: Path) -> None:
    module = _module(path)
    room, wrong = _room(module), []
    for line, imported in _imports(path):
        other = _room(imported)
        if module == "w2v" or room == other:  # the front door re-exports; rooms are judged below
            continue
        if FLOORS[other] > FLOORS[room] or (FLOORS[other] == FLOORS[room] == 2):
            wrong.append(f"{path}:{line}: {module} (F{FLOORS[room]}) imports {imported} (F{FLOORS[other]})")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in ("__init__.py", "base.py")], ids=_module)
def test_one_registered_component_does_not_import_another(path: Path) -> None:
    module = _module(path)
    wing = next((w for w in WINGS if module.startswith(f"{w}.")), None)
    if wing is None:
        return
    registering = {m for m in MODULES if m.startswith(f"{wing}.") and _registers(m)}
    wrong = [f"{path}:{line}: {name}" for line, name in _imports(path) if name in registering and name != module]
    assert not wrong, "\n".join(wrong)


def _registers(module: str) -> bool:
    """Whether the file of `module` registers a class by a decorator."""
    path = REPOSITORY / f"{module.replace('.', '/')}.py"
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    decorators = (d for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for d in node.decorator_list)
    calls = (d.func for d in decorators if isinstance(d, ast.Call))
    return any(isinstance(f, ast.Name) and f.id.startswith("register_") for f in calls)


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_the_library_imports_no_example_and_no_test(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] in ("examples", "tests")]
