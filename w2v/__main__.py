"""`w2v`, or `python -m w2v`: which programs there are, and which released models. Needs no torch."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from pathlib import Path

from w2v.config.released import released_list
from w2v.version import __version__


def main() -> int:
    """Write the programs to stdout; with `models` the released checkpoints, with `--version` the version."""
    words = sys.argv[1:]
    if "--version" in words:
        sys.stdout.write(f"w2v {__version__}\n")
        return 0
    if words == ["models"]:
        sys.stdout.write(released_list() + "\n")
        return 0
    if words and words not in (["-h"], ["--help"]):
        sys.stderr.write(f"w2v: error: takes `models`, --version or nothing, got {' '.join(words)[:80]}\n")
        return 2
    lines = [f"w2v {__version__}: programs, each of which explains itself with --help", ""]
    lines += [f"  {name:<16} {purpose}" for name, purpose in programs()]
    lines += ["", "Released models, which open by name: w2v models"]
    lines += [f"First steps: {pages() / 'your_own_speech.md'}; recipes: w2v-train --recipe help"]
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


def pages() -> Path:
    """Return the folder of the documentation: the checkout's, or what was installed with the package."""
    package = Path(__file__).resolve().parent
    # `pip install --target` and `--prefix` put it beside the packages, or three folders above them.
    below = (package.parents[i] / "share/doc/w2v" for i in (0, 3) if i < len(package.parents))
    found = (package.parent / "docs", *below, Path(sysconfig.get_path("data")) / "share/doc/w2v")
    return next((folder for folder in found if (folder / "your_own_speech.md").is_file()), Path("docs"))


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
