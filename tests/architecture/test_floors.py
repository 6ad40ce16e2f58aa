"""Rooms and floors: a file imports from lower floors and from its own room, and no circle of files exists.

`FLOORS` is the one table; the one in `docs/architecture.md` is compared with it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Rooms (folders, or files that stand for themselves), from the top down. Rooms of one floor do not import each other;
# only the ground is shared: its files may import one another.
FLOORS: dict[int, tuple[str, ...]] = {
    9: ("w2v_cli", "w2v", "w2v.__main__"),
    8: ("w2v.training", "w2v.inference"),
    7: ("w2v.tasks",),
    6: ("w2v.convert", "w2v.decoders"),
    5: ("w2v.models", "w2v.lm"),
    4: ("w2v.modules", "w2v.scoring", "w2v.pictures"),
    3: ("w2v.functional", "w2v.data", "w2v.optim", "w2v.checkpoint", "w2v.criterions"),
    2: ("w2v.config", "w2v.distributed", "w2v.files", "w2v.registry", "w2v.plugins", "w2v.shards"),
    1: ("w2v.errors", "w2v.types", "w2v.array_types", "w2v.rng", "w2v.system", "w2v.version"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# Concrete models, criterions and tasks meet through registries and typed values only.
WINGS = ("w2v.models", "w2v.criterions", "w2v.tasks")

FILES = sorted([*REPOSITORY.glob("w2v/**/*.py"), *REPOSITORY.glob("w2v_cli/**/*.py")])


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """Return the room of `module`: the longest name in the table that it begins with, and `w2v` for the face only."""
    name = module
    while name not in FLOOR_OF:
        name = name.rpartition(".")[0]
        if not name:
            raise KeyError(module)
    if name == "w2v" and module != "w2v":
        raise KeyError(f"{module} lies loose in w2v/")
    return name


def imports_of(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name ("" for a whole module) of each import of our own.

    Imports inside functions and under `if TYPE_CHECKING` count as well.
    """
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            # `from w2v import models` names a module; `from w2v.errors import DataError` a thing within one.
            names = [(f"{source}.{alias.name}", alias.name) for alias in node.names]
            found = [(full, "") if full in MODULES else (source, name) for full, name in names]
        else:
            continue
        yield from ((node.lineno, name, thing) for name, thing in found if name.split(".")[0] in ("w2v", "w2v_cli"))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_file_has_a_floor(module: str) -> None:
    room_of(module)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_downwards(path: Path) -> None:
    module = module_of(path)
    room, wrong = room_of(module), []
    for line, imported, _ in imports_of(path):
        other = room_of(imported)
        if room == other or FLOOR_OF[room] == FLOOR_OF[other] == 1:
            continue
        if room == "w2v_cli" and other == "w2v":  # programs may use the public face
            continue
        if FLOOR_OF[other] >= FLOOR_OF[room]:
            wrong.append(f"{path}:{line}: {room} (floor {FLOOR_OF[room]}) imports {imported} (floor {FLOOR_OF[other]})")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_files() -> None:
    """Depth first over the imports of every file; a file met again on the way down closes a circle."""
    graph = {module: {name for _, name, _ in imports_of(path) if name in MODULES} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module in done:
            return
        for name in sorted(graph[module] - {module}):
            # A package's own __init__ hands its files on; a file that imports it back would be a circle as well.
            visit(name, [*way, module])
        done.add(module)

    for module in graph:
        visit(module, [])


def test_the_documented_table_is_this_one() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    documented = {int(floor): set(re.findall(r"`([^`]+)`", rooms)) for floor, rooms in rows}
    spelled = {"w2v": "w2v/__init__.py", "w2v.__main__": "w2v/__main__.py"}

    def shown(room: str) -> str:
        path = room.replace(".", "/")
        folder = (REPOSITORY / path).is_dir()
        return spelled.get(room) or (f"{path.removeprefix('w2v/')}/" if folder else path.removeprefix("w2v/") + ".py")

    assert documented == {floor: {shown(room) for room in rooms} for floor, rooms in FLOORS.items()}


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in ("__init__.py", "base.py")], ids=module_of)
def test_one_registered_component_does_not_import_another(path: Path) -> None:
    module = module_of(path)
    wing = next((w for w in WINGS if module.startswith(f"{w}.")), None)
    if wing is None:
        return
    wrong = [
        f"{path}:{line}: {name}.{thing}"
        for line, name, thing in imports_of(path)
        if name.startswith(f"{wing}.") and name != module and thing in registered_in(name)
    ]
    assert not wrong, "\n".join(wrong)


def registered_in(module: str) -> set[str]:
    """Return the classes that the file of `module` registers by a decorator."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name for node in classes if any(_registers(decorator) for decorator in node.decorator_list)}


def _registers(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(function, ast.Name) and function.id.startswith("register_")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_library_imports_no_example_and_no_test(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] in ("examples", "tests")]
