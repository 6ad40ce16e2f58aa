"""The recipes that come with w2v (`w2v-train --recipe NAME`): files of options in the folder beside this one."""

from __future__ import annotations

import difflib
from pathlib import Path

from w2v.errors import ConfigError

FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        ConfigError: there is no such recipe; near names are listed.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=2)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        if name.endswith((".yaml", ".yml")):
            meant = f"--config {name} reads a file of your own; "
        raise ConfigError(f"--recipe: no recipe {name!r}; {meant}known: {', '.join(names)}")
    return FOLDER / f"{name}.yaml"


def recipe_list() -> str:
    """Return one line per recipe, its name and the first line of its file, and where the files lie."""
    lines = [f"  {name:<22} {_purpose(name)}" for name in recipe_names()]
    return "\n".join([f"recipes, files of options in {FOLDER}:", *lines])


def _purpose(name: str) -> str:
    first = recipe_path(name).read_text(encoding="utf-8").split("\n")[0]
    return first.removeprefix("# ")
