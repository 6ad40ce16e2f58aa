"""YAML files of options: sections of names and values, each with its line.

Only plain data is taken: no tags, no dates, nothing named twice (`&a`, `*a`), so that what is read is never larger or
deeper than what was written. What the options mean is `options`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from w2v.errors import ConfigError

LONGEST_FILE = 1 << 20
DEEPEST = 20
PREFIX = "tag:yaml.org,2002:"
ELSEWHERE = {  # sections of the original's files that are none here
    "defaults": "Hydra joins files by it: write their sections into this file",
    **dict.fromkeys(
        ("common_eval", "generation", "eval_lm", "interactive", "bpe", "tokenizer", "scoring", "ema", "simul_type"),
        "training does not read it: leave it out",
    ),
}


@dataclass(frozen=True)
class ConfigFile:
    """Options of a file, or of several that lie over one another.

    Attributes:
        path: the file; empty where there is none, or several.
        sections: section -> name -> plain value.
        places: (section, name) -> `file:line`, for messages.
    """

    path: str = ""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    places: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return the options of a section; none where the file lacks it."""
        return self.sections.get(name, {})

    def where(self, section: str, name: str) -> str:
        """Return `file:line` of an option."""
        return self.places[section, name]

    def over(self, below: ConfigFile) -> ConfigFile:
        """Return the options of both, these where both have one."""
        names = dict.fromkeys([*self.sections, *below.sections])
        sections = {name: {**below.section(name), **self.section(name)} for name in names}
        return ConfigFile("", sections, {**below.places, **self.places})

    def put(self, section: str, name: str, value: Any, where: str) -> ConfigFile:
        """Return the file with one more option, or another value for it."""
        return ConfigFile("", {section: {name: value}}, {(section, name): where}).over(self)

    def drop(self, section: str, name: str) -> ConfigFile:
        """Return the file without an option."""
        kept = {key: value for key, value in self.section(section).items() if key != name}
        return replace(self, sections={**self.sections, section: kept})

    def without(self, section: str) -> ConfigFile:
        """Return the file without a section."""
        return replace(self, sections={name: part for name, part in self.sections.items() if name != section})


def read_config_file(path: str, known: Iterable[str]) -> ConfigFile:
    """Read a YAML file of sections.

    Args:
        path: the file.
        known: names of sections.

    Raises:
        ConfigError: no such file, no YAML, more than plain data, or an unknown section; named as file:line.
    """
    import yaml

    try:
        content = Path(path).read_bytes()
    except OSError as e:
        raise ConfigError(f"--config {path}: {e.strerror}") from e
    if len(content) > LONGEST_FILE:
        raise ConfigError(f"--config {path}: is larger than {LONGEST_FILE} bytes")
    try:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as e:
        line = content[: e.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is no UTF-8 text") from e
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise ConfigError(f"{path}:{line}: is no YAML: {e.problem}") from e
    except yaml.YAMLError as e:  # a character that YAML does not have
        raise ConfigError(f"{path}:1: is no YAML: {' '.join(str(e).split())}") from e
    except RecursionError as e:
        raise ConfigError(f"{path}:1: is nested too deeply") from e
    return _Sections(path, tuple(known)).read(root)


class _Sections:
    """Turns the nodes of one file into plain data."""

    def __init__(self, path: str, known: tuple[str, ...]) -> None:
        import yaml

        self._path, self._known = path, known
        self._kinds = {yaml.ScalarNode: "scalar", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}
        self._constructor = yaml.constructor.SafeConstructor()
        self._seen: set[int] = set()

    def read(self, root: Any) -> ConfigFile:
        names = ", ".join(self._known)
        plain = None if root is None else self._value(root, 0)
        if not isinstance(plain, dict):
            raise ConfigError(f"{self._path}:1: must hold sections ({names}), got {plain!r}")
        places: dict[tuple[str, str], str] = {}
        for key, node in root.value:
            values = plain[key.value]
            if key.value not in self._known:
                hint = f"; {ELSEWHERE[key.value]}" if key.value in ELSEWHERE else f"; known: {names}"
                self._refuse(key, f"unknown section {key.value!r}{hint}")
            if not isinstance(values, dict):
                self._refuse(key, f"section {key.value!r} must hold options, got {values!r}")
            places |= {(key.value, name.value): f"{self._path}:{name.start_mark.line + 1}" for name, _ in node.value}
        return ConfigFile(self._path, plain, places)

    def _kind(self, node: Any) -> str:
        if id(node) in self._seen:
            self._refuse(node, "is no plain YAML: a value is used twice (&, *)")
        self._seen.add(id(node))
        kind = self._kinds[type(node)]
        if kind != "scalar" and node.tag != PREFIX + kind:
            self._refuse(node, f"is no plain YAML: the tag {node.tag!r}")
        return kind

    def _value(self, node: Any, depth: int) -> Any:
        if depth > DEEPEST:
            self._refuse(node, "is nested too deeply")
        kind = self._kind(node)
        if kind == "seq":
            return [self._value(item, depth + 1) for item in node.value]
        if kind == "map":
            return self._mapping(node, depth)
        if node.tag.removeprefix(PREFIX) not in ("null", "bool", "int", "float", "str"):
            self._refuse(node, f"is no plain YAML: {node.value!r} would be {node.tag.removeprefix(PREFIX)!r}; quote it")
        try:
            return self._constructor.construct_object(node)
        except (ValueError, KeyError, AttributeError, OverflowError):  # `!!int x`
            self._refuse(node, f"{node.value!r} is no {node.tag.removeprefix(PREFIX)}")

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, value in node.value:
            name = self._value(key, depth + 1)
            if not isinstance(name, str):
                self._refuse(key, f"a name must be text, got {name!r}")
            if name in plain:
                self._refuse(key, f"{name!r} is given twice")
            plain[name] = self._value(value, depth + 1)
        return plain

    def _refuse(self, node: Any, message: str) -> NoReturn:
        raise ConfigError(f"{self._path}:{node.start_mark.line + 1}: {message}")
