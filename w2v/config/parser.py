"""argparse over config dataclasses: one owner per flag, near matches for a mistyped one."""

from __future__ import annotations

import argparse
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from w2v.config.fields import REQUIRED, Option, _plain, build_config, options_of
from w2v.errors import ConfigError
from w2v.version import __version__


class ArgumentParser(argparse.ArgumentParser):
    """argparse without abbreviations, which raises `ConfigError` and knows who owns each flag."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)
        if self.add_help:
            self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
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

    def parse_configs(self, argv: Sequence[str], kinds: Mapping[str, type[Any]]) -> tuple[Any, ...]:
        """Parse `argv` into one config of each kind.

        Args:
            argv: the arguments.
            kinds: title -> config dataclass, as in `add_config`.

        Raises:
            ConfigError: as `add_config`, `parse` and `build_config` do.
        """
        for title, kind in kinds.items():
            self.add_config(kind, title)
        values = self.parse(argv)
        configs = []
        for kind in kinds.values():
            names = {option.name for option in options_of(kind)}
            own = {name: value for name, value in values.items() if name in names}
            configs.append(build_config(kind, own, self.prog))
        return tuple(configs)

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
