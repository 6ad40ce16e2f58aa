"""Who speaks in each clip: from its path, or from a table (`--speaker-from`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from w2v.data.text_file import read_lines
from w2v.errors import ConfigError, DataError

PARENT = "parent"
PREFIX = "prefix:"
COLUMN = "speaker"


def speakers_of(names: Sequence[str], rule: str) -> list[str]:
    """Return the speaker of each clip.

    Args:
        names: paths of the clips, relative to the root of their manifest.
        rule: `parent`: the folder that the clip is in; `prefix:-`: its file name up to the first `-` (any other mark
            as well); else a file of lines with tabs. Its columns are path and speaker, unless its first line calls
            the second or a later column `speaker`.

    Raises:
        ConfigError: the rule is none of these.
        DataError: the file cannot be read, or lacks a clip.
    """
    if rule == PARENT:
        return [PurePosixPath(name).parent.name or "." for name in names]
    if rule.startswith(PREFIX) and rule != PREFIX:
        mark = rule.removeprefix(PREFIX)
        return [PurePosixPath(name).name.split(mark)[0] or "." for name in names]
    if not Path(rule).is_file():
        raise ConfigError(f"--speaker-from must be {PARENT}, {PREFIX}MARK or a file, got {rule!r}")
    table = _read_table(rule)
    missing = next((name for name in names if name not in table), None)
    if missing is not None:
        raise DataError(f"--speaker-from {rule}: has no line for {missing}")
    return [table[name] for name in names]


def utterance_id(speaker: str, name: str) -> str:
    """Return an id for sclite, which takes what stands before the first `-` or `_` for the speaker."""
    stem = PurePosixPath(name).with_suffix("").as_posix()
    return re.sub(r"[()\-_\s;<>{}@*\\/]", ".", speaker) + "-" + re.sub(r"[()/\s;<>{}@*\\]", ".", stem)


def _read_table(path: str) -> dict[str, str]:
    lines = read_lines(path, "table of speakers")
    titles = lines[0].split("\t") if lines else []
    has_titles = COLUMN in titles[1:]
    column = titles.index(COLUMN) if has_titles else 1
    table = {}
    for number, line in enumerate(lines[has_titles:], 1 + has_titles):
        cells = line.split("\t")
        if len(cells) <= column:
            raise DataError(f"{path}:{number}: must be a path, a tab and a speaker, got {line!r}")
        table[cells[0]] = cells[column].strip()
    return table
