"""`python -m w2v`: which programs there are, and what each is for. Needs no torch."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

from w2v.version import __version__


def main() -> int:
    """Print the programs, or with `--version` the version."""
    if "--version" in sys.argv[1:]:
        print(f"w2v {__version__}")
        return 0
    print(f"w2v {__version__}: programs, each of which explains itself with --help\n")
    for name, purpose in programs():
        print(f"  {name:<16} {purpose}")
    print("\nFirst steps: README.md and docs/your_own_speech.md; recipes: w2v-train --recipe help")
    return 0


def programs() -> list[tuple[str, str]]:
    """Return name and purpose of each program: the files of `w2v_cli` whose first line is "`w2v-name`: purpose"."""
    spec = importlib.util.find_spec("w2v_cli")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    found = []
    for file in sorted(folder.glob("*.py")):
        first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
        name, colon, purpose = first.partition("`: ")
        if colon and name.startswith("`w2v-"):
            found.append((name.removeprefix("`"), purpose.rstrip(".")))
    return found


if __name__ == "__main__":
    sys.exit(main())
