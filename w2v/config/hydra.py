"""The original's later command lines, which Hydra read: `--config-dir DIR --config-name NAME key.sub=value`.

They are turned into what stands for them here: a file of options, and options by section and name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from w2v.errors import ConfigError

FOLDER_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")
NAME_FLAGS = ("--config-name", "-cn")
_OVERRIDE = re.compile(r"(\+\+|\+|~)?([A-Za-z_@/]+)((?:\.[A-Za-z_0-9]+)*)=(.*)", re.DOTALL)


@dataclass
class HydraArguments:
    """A command line without Hydra's parts.

    Attributes:
        argv: what is left.
        config: the file that `--config-dir` and `--config-name` name; None without them.
        options: section -> name -> value, of `section.name=value`; `section=value` chooses a component (`_name`).
    """

    argv: list[str] = field(default_factory=list)
    config: str | None = None
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


def split_hydra(argv: Sequence[str], sections: Iterable[str]) -> HydraArguments:
    """Take Hydra's parts out of a command line.

    Args:
        argv: the arguments.
        sections: names of the sections of options.

    Raises:
        ConfigError: a part that has no counterpart here; the message has the spelling that does the same.
    """
    known, found = set(sections), HydraArguments()
    folder, name = "", ""
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in (*FOLDER_FLAGS, *NAME_FLAGS):
            given = value if equals else next(words, "")
            if not given:
                raise ConfigError(f"w2v-train: {flag} needs a value")
            folder, name = (given, name) if flag in FOLDER_FLAGS else (folder, given)
        elif word in ("--multirun", "-m"):
            raise ConfigError(f"w2v-train: {word}: one command trains one model; start w2v-train once for each setting")
        elif not _take_override(word, known, found):
            found.argv.append(word)
    if folder or name:
        if not name:
            raise ConfigError(
                f"w2v-train: --config-dir {folder} needs --config-name; or give --config {folder}/FILE.yaml"
            )
        ending = "" if name.endswith((".yaml", ".yml")) else ".yaml"
        found.config = os.path.join(folder, name + ending)
    return found


def _take_override(word: str, known: set[str], found: HydraArguments) -> bool:
    match = _OVERRIDE.fullmatch(word)
    if match is None or word.startswith("-"):
        return False
    mark, section, path, text = match.groups()
    if section in known and not path and mark != "~":
        found.options.setdefault(section, {})["_name"] = text
        return True
    names = path.split(".")[1:]
    if section in known and len(names) == 1 and mark != "~":
        found.options.setdefault(section, {})[names[0]] = _value(word, text)
        return True
    if mark == "~" or section in known:
        raise ConfigError(f"w2v-train: {word}: only section.name=value is read, such as optimization.max_update=1000")
    if section.startswith("hydra") or mark == "+":
        raise ConfigError(f"w2v-train: {word}: Hydra and its launchers are not used here; leave it out")
    if path:
        raise ConfigError(f"w2v-train: {word}: no section {section!r}; sections are {', '.join(sorted(known))}")
    return False  # an ordinary argument, such as a folder with `=` in its name


def _value(word: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError as e:
        raise ConfigError(f"w2v-train: {word}: {text!r} is no value in YAML; quote it") from e
