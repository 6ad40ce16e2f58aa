"""A component's options are a frozen dataclass: a field is a flag, a YAML key and a checkpoint entry.

A field made with `arg` *is* the documentation of a flag: its name with dashes, its type, default and help. There
is no configuration framework and nothing is evaluated.
"""

from __future__ import annotations

import dataclasses
import decimal
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
REQUIRED: Any = dataclasses.MISSING


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
    none_is_text: bool = False,
    reads: str | None = None,
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
        none_is_text: the word `none` is a value like another, where else it stands for "not given".
        reads: `file` or `model`: the value names one that is read, for `check_named_files`.
    """
    metadata = dict(
        help=help,
        choices=choices,
        aliases=tuple(aliases),
        parse=parse,
        metavar=metavar,
        positional=positional,
        many=many,
        none_is_text=none_is_text,
        reads=reads,
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
    none_is_text: bool
    reads: str | None

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
        is_word = is_word and not self.none_is_text
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
                none_is_text=meta.get("none_is_text", False),
                reads=meta.get("reads"),
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
        # 4e5, as Hydra takes it
        if isinstance(value, str) and re.fullmatch(r"\d{1,6}(?:\.\d{1,6})?[eE]\d{1,2}", value):
            exact = decimal.Decimal(value)
            if exact == int(exact) < 10**18:
                return int(exact)
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
            near = [option.name for option in options.values() if f"--{name.replace('_', '-')}" in option.aliases]
            near = near or difflib.get_close_matches(name, options, n=1)
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
