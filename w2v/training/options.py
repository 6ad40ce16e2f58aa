"""From the command line (and a YAML file) to a typed configuration of one training run.

Order of precedence: what is typed, then `--config FILE.yaml`, then `--recipe NAME`, then the model that a run begins
from, then the preset behind `--arch`, then the defaults of the dataclasses. The YAML file has the sections of the
original's files; `--print-config` writes such a file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from w2v.config import ArgumentParser, Option, build_config, options_of, to_plain
from w2v.config.hydra import HydraArguments, split_hydra
from w2v.config.original_keys import NEUTRAL
from w2v.config.sections import CheckpointConfig, CommonConfig, DatasetConfig, DistributedConfig, OptimizationConfig
from w2v.config.unsupported_flags import TRAIN, refuse_unsupported
from w2v.config.yaml_file import ConfigFile
from w2v.criterions import CRITERIONS
from w2v.errors import LONGEST_MESSAGE, ConfigError, RegistryError
from w2v.models import MODELS
from w2v.optim import LR_SCHEDULERS, OPTIMIZERS
from w2v.plugins import import_installed, import_user_dir
from w2v.registry import Entry, Registry
from w2v.tasks import TASKS
from w2v.training.beginning_model import BeginningModel, beginning_model, is_run_of_ours
from w2v.training.option_files import MISSING, fitting, read_layers, take_marks, translate, without_unused

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
The same command again resumes where the last one stopped. See docs/recipes.md for the published commands."""


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
    """What the command line of `w2v-train` asks for.

    Attributes:
        config: what is trained, and how.
        print_config: only print the configuration.
        left_out: sections and options of the user's file that change nothing here.
    """

    config: TrainConfig
    print_config: bool
    left_out: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Return what is to be said of the user's file."""
        if not self.left_out:
            return []
        groups: dict[str, list[str]] = {}
        for entry in self.left_out:
            section, _, name = entry.rpartition(".")
            groups.setdefault(section, []).append(name)
        names = [f"{section}: {', '.join(keys)}" if section else ", ".join(keys) for section, keys in groups.items()]
        return [f"left out of the file of options, as it changes nothing here: {'; '.join(names)}"]


def parse_train_command(argv: Sequence[str]) -> ParsedCommand:
    """Read the command line of `w2v-train`.

    Raises:
        ConfigError: an unknown or unsupported flag, a value that breaks a rule, a bad YAML file.
        RegistryError: an unknown task, model, criterion, optimizer or schedule.
        SystemExit: `--help` was asked for.
    """
    # Two passes: the flags that there are depend on --task, --arch, --criterion, ..., and on plugins.
    hydra = split_hydra(argv, [*ROOT_SECTIONS, *REGISTRIES])
    argv = hydra.argv
    first = _first_pass(argv)
    if first.config and hydra.config:
        raise ConfigError(f"w2v-train: --config {first.config} and --config-name exclude each other; give one of them")
    layers = _read_layers(first, hydra)
    entries = _choose(first, layers.own.over(layers.recipe))
    known = {**ROOT_SECTIONS, **_configs(entries)}
    own = without_unused(translate(layers.own, entries), known)
    _check_values(own, entries)
    file = own.over(fitting(translate(layers.recipe, entries), known))
    wants_print = "--print-config" in argv
    if wants_print and "data" not in file.section("task"):  # a recipe can be looked at before there are data
        file = file.put("task", "data", MISSING, "")
    parser = _full_parser(entries, file)
    refuse_unsupported(argv, "w2v-train", parser.owners)
    if first.wants_help:
        parser.print_help()
        raise SystemExit(0)
    for section in ("model", "criterion"):
        if section not in entries:
            registry = REGISTRIES[section]
            raise ConfigError(f"{registry.flag} is required; known: {', '.join(registry.names())}")
    # Only what was typed: defaults are the dataclasses', so that the file and the presets can come between.
    typed = parser.parse(argv)
    sections = _typed_over(file, typed, entries)
    _check_missing(layers.missing, sections, entries, may_lack=wants_print)
    config = _assembled(entries, sections, file, typed)
    beginning = layers.beginning
    if beginning is not None:
        beginning.check(entries["model"], config.task.config)
        if beginning.flag == "--restore-file" and not is_run_of_ours(beginning.path):
            config = _from_a_model(config, beginning.path)
    return ParsedCommand(config, wants_print, own.left_out)


@dataclass(frozen=True)
class _Layers:
    """What lies below the typed flags, before the components are known.

    Attributes:
        own: the user's file, and options in Hydra's form.
        recipe: `--recipe`, and over it what the model says that training begins from.
        missing: options that these files mark as missing (`???`), and where.
        beginning: that model.
    """

    own: ConfigFile
    recipe: ConfigFile
    missing: dict[tuple[str, str], str]
    beginning: BeginningModel | None


def _read_layers(first: argparse.Namespace, hydra: HydraArguments) -> _Layers:
    own, recipe = read_layers(first.recipe, first.config or hydra.config, hydra.options, [*ROOT_SECTIONS, *REGISTRIES])
    _import_plugins(first, own)
    own, missing = take_marks(own)
    recipe, missing_in_recipe = take_marks(recipe)
    both = own.over(recipe)
    checkpoint = both.section("checkpoint")
    beginning = beginning_model(
        first.finetune_from_model or checkpoint.get("finetune_from_model"),
        first.restore_file or checkpoint.get("restore_file"),
        first.save_dir or checkpoint.get("save_dir", CheckpointConfig.save_dir),
    )
    if beginning is not None:
        recipe = recipe.over(beginning.layer())
    return _Layers(own, recipe, {**missing_in_recipe, **missing}, beginning)


def _typed_over(
    file: ConfigFile, typed: Mapping[str, Any], entries: Mapping[str, Entry[Any]]
) -> dict[str, dict[str, Any]]:
    """Return the options of the files by section, with what was typed over them."""
    sections = {name: dict(values) for name, values in file.sections.items()}
    owners = {option.name: name for name, option in _owned_options(entries)}
    for name, value in typed.items():
        if name in owners:
            sections.setdefault(owners[name], {})[name] = value
    return sections


def _import_plugins(first: argparse.Namespace, file: ConfigFile) -> None:
    # Plugins before any parser is built: they may bring the component that is asked for.
    user_dir = first.user_dir or file.section("common").get("user_dir")
    import_installed()
    if user_dir:
        try:
            if not isinstance(user_dir, str):
                raise ConfigError(f"--user-dir: must be text, got {user_dir!r}")
            import_user_dir(user_dir)
        except ConfigError as e:
            raise ConfigError(str(e) if first.user_dir else f"{file.where('common', 'user_dir')}: {e}") from e


def _check_missing(
    missing: Mapping[tuple[str, str], str],
    sections: dict[str, dict[str, Any]],
    entries: Mapping[str, Entry[Any]],
    *,
    may_lack: bool,
) -> None:
    """Check that what a file marks with `???` is given; where it `may_lack`, to be printed, the mark is put back."""
    options = {(section, option.name): option for section, option in _owned_options(entries)}
    for (section, name), where in missing.items():
        option = options.get((section, name))
        if option is None or sections.get(section, {}).get(name) is not None:
            continue
        if not may_lack:
            what = "the data folder" if option.positional else option.flag
            raise ConfigError(f"{where}: {name} is {MISSING}: give {what}")
        sections.setdefault(section, {})[name] = MISSING


def _assembled(
    entries: Mapping[str, Entry[Any]], sections: Mapping[str, Any], file: ConfigFile, typed: Mapping[str, Any]
) -> TrainConfig:
    try:
        return _assemble(entries, sections, "w2v-train")
    except ConfigError as e:
        # A rule of several options, or a range; it begins with the flag.
        for section, option in _owned_options(entries):
            is_in_file = (section, option.name) in file.places and option.name not in typed
            if str(e).startswith(f"{option.flag} ") and is_in_file:
                raise ConfigError(f"{file.where(section, option.name)}: {e}") from e
        raise


def _from_a_model(config: TrainConfig, path: str) -> TrainConfig:
    """Return what `--restore-file MODEL` means where the file holds no state of a run: its weights, at update 0."""
    changed = dataclasses.replace(
        config.checkpoint, restore_file=CheckpointConfig.restore_file, finetune_from_model=path,
        reset_dataloader=False, reset_lr_scheduler=False, reset_meters=False, reset_optimizer=False,
    )  # fmt: skip
    return dataclasses.replace(config, checkpoint=changed)


def _configs(entries: Mapping[str, Entry[Any]]) -> dict[str, type]:
    return {section: entry.config for section, entry in entries.items()}


# ---------------------------------------------------------------------------------------------- passes


def _first_pass(argv: Sequence[str]) -> argparse.Namespace:
    """Find what decides which flags there are."""
    parser = ArgumentParser(prog="w2v-train", add_help=False)
    for flag in ("--user-dir", "--config", "--recipe", "--finetune-from-model", "--restore-file", "--save-dir"):
        parser.add_argument(flag)
    parser.add_argument("-h", "--help", action="store_true", dest="wants_help")
    for section, registry in REGISTRIES.items():
        parser.add_argument(registry.flag, *SHORT_FLAGS.get(section, ()), dest=section)
    # Unknown flags belong to the second pass, which refuses those that nobody owns.
    namespace, _ = parser.parse_known_args(list(argv))
    return namespace


def _choose(first: argparse.Namespace, file: ConfigFile) -> dict[str, Entry[Any]]:
    entries = {}
    for section, registry in REGISTRIES.items():
        # Precedence: typed, then the file, then a default.
        named = getattr(first, section), file.section(section).get("_name"), DEFAULT_COMPONENTS.get(section)
        name = next(filter(None, named), None)
        if name is not None:
            try:
                entries[section] = _entry(registry, name)
            except RegistryError as e:
                raise RegistryError(str(e) if named[0] else f"{file.where(section, '_name')}: {e}") from e
    return entries


def _entry(registry: Registry[Any], name: Any) -> Entry[Any]:
    if not isinstance(name, str):
        raise RegistryError(f"{registry.flag}: a name is text, got {name!r}")
    return registry.get(name)


def _check_values(file: ConfigFile, entries: Mapping[str, Entry[Any]]) -> None:
    """Refuse unknown options of a file, and values that are none, all at once; typed flags do not make them good."""
    configs = {**ROOT_SECTIONS, **_configs(entries)}
    found = {}
    for section, values in file.sections.items():
        options = {option.name: option for option in options_of(configs[section])} if section in configs else {}
        for name, value in values.items():
            if name.startswith("_") or section not in configs:
                continue
            problem = _problem(section, configs[section], options.get(name.replace("-", "_")), name, value)
            if problem:
                found[f"{section}.{name}"] = f"{file.where(section, name)}: {problem}"
    text = "; ".join(found.values())
    if len(text) > LONGEST_MESSAGE:  # then at least all of their names
        text = f"{len(found)} options that w2v-train does not take, the first {next(iter(found.values()))}; "
        text += f"all: {', '.join(found)}"
    if found:
        raise ConfigError(text)


def _problem(section: str, config: type, option: Option | None, name: str, value: Any) -> str:
    """Return why an option of a file cannot be taken; empty where it can."""
    flag = f"--{name.replace('_', '-')}"
    try:
        if option is not None:
            option.convert(value)
        elif flag in TRAIN:
            return f"w2v-train has no {name}: {TRAIN[flag]}"
        elif name in NEUTRAL.get(section, {}):
            neutral = json.dumps(NEUTRAL[section][name])  # as YAML writes it
            return f"w2v-train has no {section}.{name}: leave it out, or give {neutral}, got {value!r}"
        else:
            build_config(config, {name: value}, f"section {section}")
    except ConfigError as e:
        return str(e)
    return ""


def _full_parser(entries: Mapping[str, Entry[Any]], file: ConfigFile) -> ArgumentParser:
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
    group.add_argument(
        "--config", metavar="FILE.yaml", default=argparse.SUPPRESS, help="read options from a file, also the original's"
    )
    group.add_argument(
        "--recipe", metavar="NAME", default=argparse.SUPPRESS,
        help="take options from a file that comes with w2v, such as base-8gpu or ctc-1h; `--recipe help` lists them",
    )  # fmt: skip
    group.add_argument(
        "--print-config", action="store_true", default=argparse.SUPPRESS, help="print such a file, and leave"
    )
    parser.owners.update(dict.fromkeys(("--config", "--recipe", "--print-config"), "choice"))
    for section, entry in entries.items():
        parser.add_config(entry.config, f"{section} {entry.name}", {**entry.overrides, **file.section(section)})
    for section, config in ROOT_SECTIONS.items():
        parser.add_config(config, section, file.section(section))
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


def _assemble(entries: Mapping[str, Entry[Any]], sections: Mapping[str, Any], where: str) -> TrainConfig:
    parts: dict[str, Any] = {}
    for name, config in ROOT_SECTIONS.items():
        parts[name] = build_config(config, sections.get(name, {}), f"{where}: section {name}")
    for name, entry in entries.items():
        values = {**entry.overrides, **sections.get(name, {})}
        parts[name] = Component(entry, build_config(entry.config, values, f"{where}: section {name}"))
    return TrainConfig(**parts)
