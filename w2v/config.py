"""Options: a frozen dataclass per component, turned into flags, read from YAML, written as plain data.

A field made with `arg` *is* the documentation of a flag: its name with dashes, its type, default and help. There
is no configuration framework and nothing is evaluated: literals such as `'[(512, 10, 5)] * 2'` go through a small
grammar (`parse_literal`).
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from w2v.errors import ConfigError

Parser = Callable[[Any], Any]
ConfigT = TypeVar("ConfigT")

MAX_LITERAL_CHARACTERS = 4096
MAX_LITERAL_ITEMS = 1024
MAX_LITERAL_LEAVES = 8192  # of all nested lists together: repeats of repeats multiply
REQUIRED: Any = dataclasses.MISSING


# ---------------------------------------------------------------------------------------------- fields


def arg(
    default: Any = REQUIRED,
    *,
    help: str,
    choices: Sequence[str] | None = None,
    aliases: Sequence[str] = (),
    parse: Parser | None = None,
    metavar: str | None = None,
    positional: bool = False,
    many: bool = False,
) -> Any:
    """Declare one option of a config dataclass.

    Args:
        default: value where the flag is not given; leave out for a required option.
        help: what it does, with its unit.
        choices: the values allowed.
        aliases: further spellings, with their dashes.
        parse: turns the text of the command line, or the plain value from a YAML file or checkpoint, into the
            field's value; raises `ValueError` with the rule broken.
        metavar: the word for the value in `--help`.
        positional: given by position instead of by a flag.
        many: any number of values may follow, and `parse` is given a list.
    """
    metadata = dict(
        help=help,
        choices=choices,
        aliases=tuple(aliases),
        parse=parse,
        metavar=metavar,
        positional=positional,
        many=many,
    )
    return dataclasses.field(default=default, kw_only=True, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """One field of a config dataclass, read for the command line."""

    name: str
    type: type
    optional: bool
    default: Any
    help: str
    choices: Sequence[str] | None
    aliases: tuple[str, ...]
    parse: Parser | None
    metavar: str | None
    positional: bool
    many: bool

    @property
    def flag(self) -> str:
        """The flag as the user types it; for a positional option, its name."""
        return self.name if self.positional else "--" + self.name.replace("_", "-")

    @property
    def off_flag(self) -> str:
        """The flag that turns a switch off: `--no-x`, or `--x` where the field itself is called `no_x`."""
        dashed = self.name.replace("_", "-")
        return "--" + (dashed.removeprefix("no-") if dashed.startswith("no-") else "no-" + dashed)

    def convert(self, value: Any) -> Any:
        """Return `value` (text, or plain data) as the field's type.

        Raises:
            ConfigError: the value is of another kind, or not among the choices.
        """
        is_word = isinstance(value, str) and self.optional and value.lower() in ("none", "null")
        if value is None or (is_word and value not in (self.choices or ())):
            if not self.optional:
                raise ConfigError(f"{self.flag} needs a value, got none")
            return None
        try:
            result = self.parse(value) if self.parse else _convert_scalar(value, self.type)
        except (ValueError, TypeError, OverflowError) as e:
            raise ConfigError(f"{self.flag}: {e}") from e
        if self.choices is not None and result not in self.choices:
            near = difflib.get_close_matches(str(result), self.choices, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{self.flag} must be one of {', '.join(self.choices)}, got {result!r}{meant}")
        return result


def options_of(config: type) -> list[Option]:
    """Return the options of a config dataclass, in order of declaration."""
    hints = get_type_hints(config)
    options = []
    for item in dataclasses.fields(config):
        meta = item.metadata
        kind, optional = _strip_none(hints[item.name])
        options.append(
            Option(
                name=item.name,
                type=kind,
                optional=optional,
                default=item.default,
                help=meta.get("help", ""),
                choices=meta.get("choices"),
                aliases=meta.get("aliases", ()),
                parse=meta.get("parse"),
                metavar=meta.get("metavar"),
                positional=meta.get("positional", False),
                many=meta.get("many", False),
            )
        )
    return options


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (typing.Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        return (rest[0] if len(rest) == 1 else str), len(rest) < len(get_args(hint))
    return hint, False


def _convert_scalar(value: Any, kind: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise ValueError(f"must be true or false, got {value!r}")
    if kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value):
            return int(value)
        raise ValueError(f"must be a whole number, got {value!r}")
    if kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        try:
            number = float(value)
        except (ValueError, TypeError) as e:
            raise ValueError(f"must be a number, got {value!r}") from e
        if math.isnan(number):
            raise ValueError("must be a number, got nan")
        return number
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"must be text, got {value!r}")


# ---------------------------------------------------------------------------------------------- building


def build_config(config: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build a config dataclass from plain values.

    Args:
        config: the dataclass.
        values: field name -> text or plain value; fields left out take their defaults. Keys that begin with `_`
            are ignored (`_name`).
        where: what `values` come from, for messages.

    Raises:
        ConfigError: an unknown key, a missing required option, or a value that breaks a rule.
    """
    options = {option.name: option for option in options_of(config)}
    converted = {}
    for key, value in values.items():
        if key.startswith("_"):
            continue
        name = key.replace("-", "_")
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1)
            raise ConfigError(f"{where}: unknown option {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        converted[name] = options[name].convert(value)
    for option in options.values():
        if option.default is REQUIRED and option.name not in converted:
            raise ConfigError(f"{where}: {option.flag} is required")
    return config(**converted)


def to_plain(config: Any) -> dict[str, Any]:
    """Return the fields of a config dataclass as data that YAML and `weights_only` checkpoints can hold."""
    return {item.name: _plain(getattr(config, item.name)) for item in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def check_range(config: Any, low: float, high: float, *names: str) -> None:
    """Check that fields of `config` lie in [low, high]; a field that is None passes.

    Raises:
        ConfigError: naming the flag, the range, and the value found.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            rule = f"be at least {low:g}" if high == math.inf else f"lie in [{low:g}, {high:g}]"
            raise ConfigError(f"{flag} must {rule}, got {value!r}")


# ---------------------------------------------------------------------------------------------- literals


def parse_literal(text: str) -> Any:
    """Read a python literal: numbers, strings, true/false/none, tuples, lists, dicts, `+` and `*` of lists.

    The original hands such strings to `eval`; nothing is evaluated here.

    Raises:
        ValueError: the text is no such literal, or is unreasonably long.
    """
    if len(text) > MAX_LITERAL_CHARACTERS:
        raise ValueError(f"is longer than {MAX_LITERAL_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _read_node(tree.body)
    except (SyntaxError, RecursionError, MemoryError) as e:
        raise ValueError(f"is not a list, tuple or number: {text!r}") from e


def _read_node(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (int, float, str))):
        if isinstance(node.value, int) and node.value.bit_length() > 63:
            raise ValueError("holds a number of more than 63 bits")
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_read_node(item) for item in node.elts]
        _check_leaves(sum(map(_count_leaves, items)))
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {_read_node(key): _read_node(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _read_node(node.operand)
        if isinstance(number, (int, float)):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null", "inf"):
        return {"true": True, "false": False, "null": None, "inf": math.inf}[node.id]
    if isinstance(node, ast.BinOp):
        return _read_operation(node)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed; only numbers, strings, lists, tuples, + and * are")


def _read_operation(node: ast.BinOp) -> Any:
    left, right = _read_node(node.left), _read_node(node.right)
    if isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, (list, tuple)):
        result = left + right
    elif isinstance(node.op, ast.Mult) and isinstance(left, (list, tuple)) and type(right) is int:
        if right > MAX_LITERAL_ITEMS:
            raise ValueError(f"repeats a list {right} times; the limit is {MAX_LITERAL_ITEMS}")
        _check_leaves(_count_leaves(left) * right)
        result = left * right
    else:
        raise ValueError(f"{ast.unparse(node)!r} is not allowed; + joins two lists and * repeats one")
    if len(result) > MAX_LITERAL_ITEMS:
        raise ValueError(f"holds more than {MAX_LITERAL_ITEMS} items")
    return result


def _count_leaves(value: Any) -> int:
    return sum(map(_count_leaves, value)) + 1 if isinstance(value, (list, tuple)) else 1


def _check_leaves(number: int) -> None:
    if number > MAX_LITERAL_LEAVES:
        raise ValueError(f"holds more than {MAX_LITERAL_LEAVES} values")


def _read(value: Any) -> Any:
    return parse_literal(value) if isinstance(value, str) else value


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str) and not value.strip().startswith(("[", "(")):
        value = f"[{value}]"
    items = _read(value)
    items = list(items) if isinstance(items, (list, tuple)) else [items]
    if not items or any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in items):
        raise ValueError(f"must be a number or a list of numbers, got {value!r}")
    return items


def float_tuple(value: Any) -> tuple[float, ...]:
    """Parse `0.0005`, `0.1,0.2`, `'[0.1, 10]'` or `'(0.9, 0.98)'`."""
    return tuple(float(item) for item in _numbers(value))


def int_tuple(value: Any) -> tuple[int, ...]:
    """Parse `4`, `1,2,4` or `'[4]'`."""
    items = _numbers(value)
    if any(int(item) != item for item in items):
        raise ValueError(f"must be whole numbers, got {value!r}")
    return tuple(int(item) for item in items)


def float_triple(value: Any) -> tuple[float, float, float]:
    """Parse `'(2,0.5,0.999995)'`."""
    items = float_tuple(value)
    if len(items) != 3:
        raise ValueError(f"must be three numbers, got {value!r}")
    return items[0], items[1], items[2]


def float_pair(value: Any) -> tuple[float, float]:
    """Parse `'(0.9, 0.98)'`."""
    items = float_tuple(value)
    if len(items) != 2:
        raise ValueError(f"must be two numbers, got {value!r}")
    return items[0], items[1]


def str_tuple(value: Any) -> tuple[str, ...]:
    """Parse `'["prob_perplexity","temp"]'`, or names separated by commas."""
    if isinstance(value, str) and not value.strip().startswith(("[", "(")):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    items = _read(value)
    if not isinstance(items, (list, tuple)) or any(not isinstance(item, str) for item in items):
        raise ValueError(f"must be a list of names, got {value!r}")
    return tuple(items)


# ---------------------------------------------------------------------------------------------- flags


class ArgumentParser(argparse.ArgumentParser):
    """argparse without abbreviations, which raises `ConfigError` and knows who owns each flag."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)
        self.owners: dict[str, str] = {}
        self.options: dict[str, Option] = {}
        self.elsewhere: dict[str, str] = {}  # flag -> where it would be known, such as "--optimizer sgd"
        # argparse takes "-inf" and "-1e-3" for flags unless told that they are numbers.
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf)")

    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(f"{self.prog}: {message}")

    def add_config(self, config: type, title: str, defaults: Mapping[str, Any] | None = None) -> None:
        """Add a flag for every option of a config dataclass.

        Flags that are not typed are absent from the parsed namespace, so that presets and files can fill them.

        Args:
            config: the dataclass.
            title: heading in `--help`, and the owner named when two configs claim one flag.
            defaults: values that replace the dataclass's defaults in the help text (a preset's, a file's); a
                positional option among them need not be typed.

        Raises:
            ConfigError: a flag belongs to another config already.
        """
        group = self.add_argument_group(title)
        for option in options_of(config):
            spellings = [option.flag, *option.aliases]
            for flag in spellings:
                if flag in self.owners:
                    raise ConfigError(f"{flag} is declared twice: by {self.owners[flag]} and by {title}")
            self.options[option.name] = option
            default = (defaults or {}).get(option.name, option.default)
            keywords: dict[str, Any] = {"help": _help(option, default), "default": argparse.SUPPRESS}
            if option.positional:
                nargs = "*" if option.many else None if default is REQUIRED else "?"
                group.add_argument(option.name, nargs=nargs, metavar=option.metavar, **keywords)
                continue
            keywords["dest"] = option.name
            for flag in spellings:
                self.owners[flag] = title
            if option.type is bool:
                group.add_argument(*spellings, action="store_const", const=True, **keywords)
                if option.off_flag not in self.owners:
                    self.owners[option.off_flag] = title
                    group.add_argument(
                        option.off_flag, dest=option.name, action="store_const", const=False,
                        default=argparse.SUPPRESS, help=argparse.SUPPRESS,
                    )  # fmt: skip
            else:
                metavar = option.metavar or ("{" + ",".join(option.choices) + "}" if option.choices else None)
                metavar = metavar or {int: "N", float: "X"}.get(option.type, option.name.split("_")[-1].upper())
                group.add_argument(*spellings, metavar=metavar, nargs="*" if option.many else None, **keywords)

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Parse `argv` and return the typed values, converted, by field name.

        Raises:
            ConfigError: an unknown flag (the nearest one is named) or a value that breaks a rule.
        """
        namespace, unknown = self.parse_known_args(list(argv))
        values = vars(namespace)
        # argparse closes an optional positional argument before the first flag, and then knows no place for it.
        waiting = [
            option.name
            for option in self.options.values()
            if option.positional and not option.many and option.name not in values
        ]
        while waiting and unknown and not unknown[0].startswith("-"):
            values[waiting.pop(0)] = unknown.pop(0)
        # It knows none either for those that follow a flag where others came before it.
        for name in [option.name for option in self.options.values() if option.positional and option.many]:
            while unknown and not unknown[0].startswith("-"):
                values.setdefault(name, []).append(unknown.pop(0))
        if unknown:
            raise ConfigError(f"{self.prog}: {self._describe_unknown(unknown[0])}")
        return {name: self.options[name].convert(v) if name in self.options else v for name, v in values.items()}

    def _describe_unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument {argument!r}"
        flag = argument.split("=")[0]
        if flag in self.elsewhere:
            return f"unknown flag {flag}; it belongs to {self.elsewhere[flag]}"
        near = difflib.get_close_matches(flag, self.owners, n=1, cutoff=0.6)
        return f"unknown flag {flag}" + (f"; did you mean {near[0]}?" if near else "")


class HelpFormatter(argparse.HelpFormatter):
    """Wider help, one line per flag where it fits."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=120)


def _help(option: Option, default: Any) -> str:
    text = option.help.replace("%", "%%")
    if default in (REQUIRED, None, "", ()) or (option.type is bool and default is False):
        return text
    if option.type is bool:
        return f"{text} (on; turn off with {option.off_flag})"
    shown = " ".join(str(_plain(default)).split())
    return f"{text} (default: {shown})".replace("%%", "%").replace("%", "%%")
