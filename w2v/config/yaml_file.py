"""YAML files of options: sections of names and values, each with its line.

Only plain data is taken: no tags, no dates, nothing named twice (`&a`, `*a`), so that what is read is never larger or
deeper than what was written. What the options mean is `options`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from w2v.config.original_keys import UNREAD_SECTIONS, joins_nothing
from w2v.errors import ConfigError, listed

LONGEST_FILE = 1 << 20
DEEPEST = 20
PREFIX = "tag:yaml.org,2002:"
BY_SECTION = (
    "options stand below their section, as in {optimization: {lr: [0.0005]}}, and not all on one level, as in the "
    "original's args; w2v-train makes such a file of flags with --print-config"
)


@dataclass(frozen=True)
class ConfigFile:
    """Options of a file, or of several that lie over one another.

    Attributes:
        path: the file; empty where there is none, or several.
        sections: section -> name -> plain value.
        places: (section, name) -> `file:line`, for messages.
        left_out: sections and options of the original's files that change nothing here.
    """

    path: str = ""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    places: Mapping[tuple[str, str], str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

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
        return ConfigFile("", sections, {**below.places, **self.places}, (*self.left_out, *below.left_out))

    def put(self, section: str, name: str, value: Any, where: str) -> ConfigFile:
        """Return the file with one more option, or another value for it."""
        return ConfigFile("", {section: {name: value}}, {(section, name): where}).over(self)

    def drop(self, section: str, name: str) -> ConfigFile:
        """Return the file without an option."""
        kept = {key: value for key, value in self.section(section).items() if key != name}
        return replace(self, sections={**self.sections, section: kept})

    def leave_out(self, section: str, name: str) -> ConfigFile:
        """Return the file without an option that changes nothing, which is noted."""
        return replace(self.drop(section, name), left_out=(*self.left_out, f"{section}.{name}"))


def read_config_file(path: str, known: Iterable[str]) -> ConfigFile:
    """Read a YAML file of sections.

    Args:
        path: the file.
        known: names of sections. Others of the original's files, which no training reads, are left out.

    Raises:
        ConfigError: no such file, no YAML, more than plain data, or unknown sections; named as file:line.
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
        plain = None if root is None else self._value(root, 0)
        if not isinstance(plain, dict):
            hint = "; overrides of Hydra stand on the command line" if isinstance(plain, list) else ""
            raise ConfigError(f"{self._path}:1: must hold sections ({', '.join(self._known)}), got {plain!r}{hint}")
        sections: dict[str, dict[str, Any]] = {}
        places: dict[tuple[str, str], str] = {}
        left_out, unknown, bare = [], [], []
        for key, node in root.value:
            name, values = key.value, plain[key.value]
            if self._is_unread(key, values):
                left_out += [name] if name != "_name" else []
            elif name not in self._known:
                unknown.append(key)
            elif isinstance(values, dict):
                sections[name] = self._options(node, values)
                places |= {(name, _spelled(option.value)): self._place(option) for option, _ in node.value}
            elif values is not None:
                bare.append(key)
        if unknown:
            names = listed([repr(key.value) for key in unknown])
            some = "unknown section" if len(unknown) == 1 else "unknown sections"
            is_flat = any(key.value == "args" or not isinstance(plain[key.value], (dict, list)) for key in unknown)
            hint = f"; {BY_SECTION}" if is_flat else ""
            self._refuse(unknown[0], f"{some} {names}; known: {', '.join(self._known)}{hint}")
        for key in bare:
            name, values = key.value, plain[key.value]
            hint = f"; a component is named by {name}: {{_name: {values}}}" if isinstance(values, str) else ""
            self._refuse(key, f"section {name!r} must hold options, got {values!r}{hint}")
        return ConfigFile(self._path, sections, places, tuple(left_out))

    def _options(self, node: Any, values: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a section under their names with underscores; flags have dashes, and are taken, too."""
        options: dict[str, Any] = {}
        for option, _ in node.value:
            name = _spelled(option.value)
            if name in options:
                self._refuse(option, f"{name!r} is given twice, with dashes and with underscores")
            options[name] = values[option.value]
        return options

    def _is_unread(self, key: Any, values: Any) -> bool:
        """Whether a section of the original's files concerns no training here."""
        if key.value == "defaults":
            if not joins_nothing(values):
                self._refuse(key, "defaults: Hydra joins files by it: write their sections into this file")
            return True
        if key.value == "ema" and isinstance(values, dict) and values.get("store_ema"):
            self._refuse(key, "ema.store_ema: averages of weights are not kept; leave it out")
        return key.value == "_name" or key.value in UNREAD_SECTIONS

    def _place(self, node: Any) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"

    def _kind(self, node: Any) -> str:
        if id(node) in self._seen:
            self._refuse(node, "is no plain YAML: a value is used twice (&, *)")
        self._seen.add(id(node))
        kind = self._kinds[type(node)]
        if kind != "scalar" and node.tag != PREFIX + kind:
            hint = f"; {BY_SECTION}" if node.tag.endswith("Namespace") else ""
            self._refuse(node, f"is no plain YAML: the tag {node.tag!r}{hint}")
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
        raise ConfigError(f"{self._place(node)}: {message}")


def _spelled(name: str) -> str:
    return name.replace("-", "_")
