"""From the command line (and a YAML file) to a typed configuration of one training run.

Order of precedence: what is typed, then `--config FILE.yaml`, then the preset behind `--arch`, then the defaults of
the dataclasses. The YAML file has the sections of the original's files; `--print-config` writes such a file.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v.config import ArgumentParser, build_config, options_of, to_plain
from w2v.criterions import CRITERIONS
from w2v.errors import ConfigError, RegistryError
from w2v.models import MODELS
from w2v.optim import LR_SCHEDULERS, OPTIMIZERS
from w2v.plugins import import_installed, import_user_dir
from w2v.registry import Entry, Registry
from w2v.retired import RETIRED
from w2v.sections import CheckpointConfig, CommonConfig, DatasetConfig, DistributedConfig, OptimizationConfig
from w2v.tasks import TASKS

ROOT_SECTIONS: dict[str, type] = {
    "common": CommonConfig,
    "dataset": DatasetConfig,
    "distributed_training": DistributedConfig,
    "optimization": OptimizationConfig,
    "checkpoint": CheckpointConfig,
}
REGISTRIES: dict[str, Registry[Any]] = {
    "task": TASKS,
    "model": MODELS,
    "criterion": CRITERIONS,
    "optimizer": OPTIMIZERS,
    "lr_scheduler": LR_SCHEDULERS,
}
SHORT_FLAGS = {"model": ("-a",)}
DEFAULT_COMPONENTS = {"task": "audio_pretraining", "optimizer": "adam", "lr_scheduler": "fixed"}

DESCRIPTION = """\
Train a model: pretraining on raw audio, fine-tuning with --labels, or a language model
(--task language_modeling).
The flags below depend on --task, --arch, --criterion, --optimizer and --lr-scheduler;
give them together with --help to see the flags of your choice."""
EPILOG = """\
example:
  w2v-train manifests --save-dir run --arch wav2vec2 --criterion wav2vec --infonce --loss-weights '[0.1, 10]' \\
    --optimizer adam --lr 0.0005 --lr-scheduler polynomial_decay --warmup-updates 32000 \\
    --max-tokens 1400000 --max-sample-size 250000 --min-sample-size 32000 --max-update 400000
The same command again goes on where the last one stopped. See docs/recipes.md for the published commands."""


@dataclass(frozen=True)
class Component:
    """A registered name and its options."""

    entry: Entry[Any]
    config: Any


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run is told."""

    common: CommonConfig
    dataset: DatasetConfig
    distributed_training: DistributedConfig
    optimization: OptimizationConfig
    checkpoint: CheckpointConfig
    task: Component
    model: Component
    criterion: Component
    optimizer: Component
    lr_scheduler: Component

    def to_plain(self) -> dict[str, dict[str, Any]]:
        """Return the configuration by section, as plain data; components carry `_name`."""
        plain: dict[str, dict[str, Any]] = {}
        for item in dataclasses.fields(self):
            part = getattr(self, item.name)
            if isinstance(part, Component):
                plain[item.name] = {"_name": part.entry.name, **to_plain(part.config)}
            else:
                plain[item.name] = to_plain(part)
        return plain


@dataclass(frozen=True)
class ParsedCommand:
    """What the command line of `w2v-train` asks for: to train, or only to print the configuration."""

    config: TrainConfig
    print_config: bool


def parse_train_command(argv: Sequence[str]) -> ParsedCommand:
    """Read the command line of `w2v-train`.

    Raises:
        ConfigError: an unknown or retired flag, a value that breaks a rule, a bad YAML file.
        RegistryError: an unknown task, model, criterion, optimizer or schedule.
        SystemExit: `--help` was asked for.
    """
    first = _first_pass(argv)
    file = read_config_file(first.config) if first.config else {}
    user_dir = first.user_dir or file.get("common", {}).get("user_dir")
    import_installed()
    if user_dir:
        if not isinstance(user_dir, str):
            raise ConfigError(f"--user-dir: must be text, got {user_dir!r}")
        import_user_dir(user_dir)
    entries = _choose(first, file)
    parser = _full_parser(entries, file)
    _refuse_retired(argv, parser)
    if first.wants_help:
        parser.print_help()
        raise SystemExit(0)
    for section in ("model", "criterion"):
        if section not in entries:
            registry = REGISTRIES[section]
            raise ConfigError(f"{registry.flag} is required; known: {', '.join(registry.names())}")
    typed = parser.parse(argv)
    sections = {name: dict(values) for name, values in file.items()}
    owners = {option.name: name for name, option in _owned_options(entries)}
    for name, value in typed.items():
        if name in owners:
            sections.setdefault(owners[name], {})[name] = value
    return ParsedCommand(_assemble(entries, sections, "w2v-train"), bool(typed.get("print_config")))


def config_from_plain(plain: Mapping[str, Any], where: str, hint: str = "") -> TrainConfig:
    """Build the configuration that `TrainConfig.to_plain` wrote.

    Args:
        plain: configuration by section.
        where: what it comes from, for messages.
        hint: text for the error of an unknown component, such as the `--user-dir` needed.
    """
    entries = {}
    for section, registry in REGISTRIES.items():
        try:
            entries[section] = registry.get(plain[section]["_name"], hint)
        except KeyError as e:
            raise ConfigError(f"{where}: section {section!r} names no {registry.kind} (_name)") from e
    return _assemble(entries, plain, where)


def read_config_file(path: str) -> dict[str, dict[str, Any]]:
    """Read a YAML file of sections.

    Raises:
        ConfigError: no such file, no YAML, or an unknown section; the message names file and line.
    """
    import yaml

    try:
        plain = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"--config {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"--config {path}: is no UTF-8 text") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: is no YAML: {getattr(e, 'problem', e)}") from e
    known = [*ROOT_SECTIONS, *REGISTRIES]
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: must hold sections ({', '.join(known)}), got {type(plain).__name__}")
    for section, values in plain.items():
        if section not in known:
            raise ConfigError(f"{path}: unknown section {section!r}; known: {', '.join(known)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: section {section!r} must hold options, got {values!r}")
    return plain


# ---------------------------------------------------------------------------------------------- passes


def _first_pass(argv: Sequence[str]) -> argparse.Namespace:
    """Find what decides which flags there are."""
    parser = ArgumentParser(prog="w2v-train", add_help=False)
    parser.add_argument("--user-dir")
    parser.add_argument("--config")
    parser.add_argument("-h", "--help", action="store_true", dest="wants_help")
    for section, registry in REGISTRIES.items():
        parser.add_argument(registry.flag, *SHORT_FLAGS.get(section, ()), dest=section)
    namespace, _ = parser.parse_known_args(list(argv))
    return namespace


def _choose(first: argparse.Namespace, file: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry[Any]]:
    entries = {}
    for section, registry in REGISTRIES.items():
        name = getattr(first, section) or file.get(section, {}).get("_name") or DEFAULT_COMPONENTS.get(section)
        if name is not None:
            if not isinstance(name, str):
                raise RegistryError(f"{registry.flag}: a name is text, got {name!r}")
            entries[section] = registry.get(name)
    return entries


def _full_parser(entries: Mapping[str, Entry[Any]], file: Mapping[str, Mapping[str, Any]]) -> ArgumentParser:
    parser = ArgumentParser(
        prog="w2v-train",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=36, width=120),
    )
    group = parser.add_argument_group("choice")
    for section, registry in REGISTRIES.items():
        default = DEFAULT_COMPONENTS.get(section)
        text = ", ".join(registry.names()) + (f" (default: {default})" if default else "")
        flags = (registry.flag, *SHORT_FLAGS.get(section, ()))
        group.add_argument(*flags, dest=section, metavar="NAME", default=argparse.SUPPRESS, help=text)
        parser.owners.update(dict.fromkeys(flags, "choice"))
    group.add_argument("--config", metavar="FILE.yaml", default=argparse.SUPPRESS, help="read options from a file")
    group.add_argument(
        "--print-config", action="store_true", default=argparse.SUPPRESS, help="print such a file, and leave"
    )
    parser.owners.update({"--config": "choice", "--print-config": "choice"})
    for section, entry in entries.items():
        parser.add_config(entry.config, f"{section} {entry.name}", {**entry.overrides, **file.get(section, {})})
    for section, config in ROOT_SECTIONS.items():
        parser.add_config(config, section, file.get(section))
    parser.elsewhere = _flags_elsewhere(parser)
    return parser


def _flags_elsewhere(parser: ArgumentParser) -> dict[str, str]:
    """Return the flags that another choice of task, model, ... would bring, with that choice."""
    owners: dict[str, dict[str, list[str]]] = {}
    for registry in REGISTRIES.values():
        for entry in map(registry.get, registry.names()):
            for option in options_of(entry.config) if not entry.overrides else ():
                for flag in {option.flag, *option.aliases} - parser.owners.keys():
                    owners.setdefault(flag, {}).setdefault(registry.flag, []).append(entry.name)
    return {
        flag: ", or to ".join(f"{choice} {' or '.join(names)}" for choice, names in choices.items())
        for flag, choices in owners.items()
    }


def _owned_options(entries: Mapping[str, Entry[Any]]) -> Iterator[tuple[str, Any]]:
    for section, config in [*((name, entry.config) for name, entry in entries.items()), *ROOT_SECTIONS.items()]:
        for option in options_of(config):
            yield section, option


def _refuse_retired(argv: Sequence[str], parser: ArgumentParser) -> None:
    for token in argv:
        flag = token.split("=")[0]
        if flag in RETIRED and flag not in parser.owners:
            raise ConfigError(f"w2v-train has no {flag}: {RETIRED[flag]}")


def _assemble(entries: Mapping[str, Entry[Any]], sections: Mapping[str, Any], where: str) -> TrainConfig:
    parts: dict[str, Any] = {}
    for name, config in ROOT_SECTIONS.items():
        parts[name] = build_config(config, sections.get(name, {}), f"{where}: section {name}")
    for name, entry in entries.items():
        values = {**entry.overrides, **sections.get(name, {})}
        parts[name] = Component(entry, build_config(entry.config, values, f"{where}: section {name}"))
    return TrainConfig(**parts)
