"""Code from outside: `--user-dir`, and installed packages with the entry-point group `w2v.plugins`.

A plugin is Python that calls the `register_*` decorators. It is imported before any parser is built, under its
own name and with its parent folder on `sys.path`, so that loader workers and spawned ranks find it too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from pathlib import Path
from types import ModuleType

from w2v.errors import ConfigError

ENTRY_POINT_GROUP = "w2v.plugins"


def import_user_dir(path: str) -> ModuleType:
    """Import a python file, a package folder, or a folder of python files.

    Returns:
        the module; for a folder without `__init__.py`, the last of its files.

    Raises:
        ConfigError: there is nothing to import, another module has the same name, a file is no Python, imports what is
            not there, or ends the program.
        Exception: whatever else the plugin itself raises, with its own traceback.
    """
    try:
        location = Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as e:  # a link that leads to itself; a user that there is not
        raise ConfigError(f"--user-dir must be a python file or a folder, got {path!r}: {e}") from e
    if location.name == "__init__.py":
        location = location.parent
    if location.is_file() and location.suffix == ".py":
        return _import(location.stem, location)
    if not location.is_dir():
        raise ConfigError(f"--user-dir must be a python file or a folder, got {path!r}")
    if (location / "__init__.py").is_file():
        return _import(location.name, location / "__init__.py")
    files = sorted(location.glob("*.py"))
    if not files:
        raise ConfigError(f"--user-dir: no python file in {path!r}")
    return [_import(file.stem, file) for file in files][-1]


def import_installed() -> None:
    """Import the plugins that installed packages announce."""
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()


def _import(name: str, file: Path) -> ModuleType:
    if "." in name:
        place = file.parent if file.name == "__init__.py" else file
        raise ConfigError(f"--user-dir: {name!r} is no name that Python can import; rename {place} without the dot")
    parent = str(file.parent.parent if file.name == "__init__.py" else file.parent)
    loaded = sys.modules.get(name)
    if loaded is None:
        if parent not in sys.path:
            sys.path.insert(0, parent)
        try:
            loaded = importlib.import_module(name)
        except SyntaxError as e:
            raise ConfigError(f"--user-dir: {e.filename or file}:{e.lineno or 1}: is no Python: {e.msg}") from e
        except ModuleNotFoundError as e:
            raise ConfigError(f"--user-dir: {file} needs the module {e.name!r}, which cannot be found here") from e
        except ImportError as e:
            hint = "; files that import each other so need an __init__.py beside them" if "relative" in str(e) else ""
            raise ConfigError(f"--user-dir: {file}: {e}{hint}") from e
        except SystemExit as e:  # a script: the run would end without a word
            raise ConfigError(
                f"--user-dir: {file} ends the program when it is imported (sys.exit); put what it runs under "
                "`if __name__ == '__main__':`"
            ) from e
    found = getattr(loaded, "__file__", None)
    if found is None or Path(found).resolve() != file:
        raise ConfigError(f"--user-dir: the name {name!r} of {file} is taken by the module at {found}; rename yours")
    return loaded
