"""Files of options behind a command line: `--config`, Hydra's spelling of it, and `--recipe`.

One layer lies over another; each option remembers where it stands. Keys of the original's files that are spelled
otherwise here are translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from w2v.config import options_of
from w2v.config.recipes import recipe_path
from w2v.config.unsupported_flags import TRAIN
from w2v.config.yaml_file import ConfigFile, read_config_file
from w2v.errors import ConfigError
from w2v.registry import Entry

REFERENCE = re.compile(r"\$\{(\w+)\.(\w+)\}")
MISSING = "???"
"""The original's mark of an option that must be given."""
HYDRA = "hydra"
"""A section of the original's files that says where and how Hydra starts jobs; nothing here reads it."""


def read_layers(recipe: str | None, config: str | None, typed: Mapping[str, Mapping[str, Any]],
                sections: Iterable[str]) -> tuple[ConfigFile, ConfigFile]:  # fmt: skip
    """Read the files that a command line names.

    Args:
        recipe: `--recipe`.
        config: `--config`.
        typed: section -> name -> value of `section.name=value` arguments.
        sections: names of sections.

    Returns:
        the user's own options, and those of the recipe, which give way.
    """
    known = [*sections, HYDRA]
    own = read_config_file(config, known) if config else ConfigFile()
    if typed:
        places = {(part, name): f"{part}.{name}=" for part, values in typed.items() for name in values}
        own = ConfigFile("", typed, places).over(own)
    below = read_config_file(str(recipe_path(recipe)), known) if recipe else ConfigFile()
    return _resolved(own.without(HYDRA)), below.without(HYDRA)


def _resolved(file: ConfigFile) -> ConfigFile:
    """Return a file whose references `${section.option}` are the values of these options.

    Raises:
        ConfigError: the file lacks one, or it is a reference of another kind, as to the environment.
    """
    for section, values in file.sections.items():
        for name, value in values.items():
            if "${" not in str(value):
                continue
            where, match = file.where(section, name), REFERENCE.fullmatch(str(value))
            target = file.section(match[1]).get(match[2]) if match is not None else None
            if target is None or "${" in str(target):
                raise ConfigError(
                    f"{where}: {name}: {str(value)[:200]} is no option of this file, as ${{task.data}} may be; write "
                    "the value itself"
                )
            file = file.put(section, name, target, where)
    return file


def translate(file: ConfigFile, entries: Mapping[str, Entry[Any]]) -> ConfigFile:
    """Bring keys of the original's files to their places here.

    Raises:
        ConfigError: a key has no counterpart.
    """
    file = _sentence_avg(file, entries)
    criterion = dict(file.section("criterion"))
    if "wer_kenlm_model" not in criterion:
        return file
    where = file.where("criterion", "wer_kenlm_model")
    if criterion.get("wer_sil_weight"):
        raise ConfigError(f"{where}: wer_sil_weight: silence has no weight of its own in validation; leave it out")
    names = ("wer_kenlm_model", "wer_lexicon", "wer_lm_weight", "wer_word_score")
    values = [criterion.get(name, default) for name, default in zip(names, (None, None, 2.0, -1.0), strict=True)]
    for name in (*names, "wer_sil_weight"):
        file = file.drop("criterion", name)
    return file if values[0] is None else file.put("criterion", "wer_args", values, where)


def _sentence_avg(file: ConfigFile, entries: Mapping[str, Entry[Any]]) -> ConfigFile:
    # In the later releases an option of the run, which criterions without use for it leave alone.
    if "sentence_avg" not in file.section("optimization"):
        return file
    value, where = file.section("optimization")["sentence_avg"], file.where("optimization", "sentence_avg")
    file = file.drop("optimization", "sentence_avg")
    takes_it = "criterion" in entries and _has_option(entries["criterion"].config, "sentence_avg")
    if not takes_it or "sentence_avg" in file.section("criterion"):
        return file
    return file.put("criterion", "sentence_avg", value, where)


def take_marks(file: ConfigFile) -> tuple[ConfigFile, dict[tuple[str, str], str]]:
    """Return a file without the options that it marks as missing (`???`), and where these stand."""
    marked = {
        (section, name): file.where(section, name)
        for section, values in file.sections.items()
        for name, value in values.items()
        if value == MISSING
    }
    for section, name in marked:
        file = file.drop(section, name)
    return file, marked


def without_unused(file: ConfigFile, configs: Mapping[str, type]) -> ConfigFile:
    """Return a file without options that are not carried here and that it does not use: those of false, none or 0."""
    for section, values in file.sections.items():
        for name, value in values.items():
            flag = f"--{name.replace('_', '-')}"
            if not value and flag in TRAIN and section in configs and not _has_option(configs[section], name):
                file = file.drop(section, name)
    return file


def fitting(file: ConfigFile, configs: Mapping[str, type]) -> ConfigFile:
    """Return a recipe without the options of components that the user has replaced by others."""
    for section, values in file.sections.items():
        for name in values:
            if not name.startswith("_") and section in configs and not _has_option(configs[section], name):
                file = file.drop(section, name)
    return file


def _has_option(config: type, name: str) -> bool:
    return any(option.name == name.replace("-", "_") for option in options_of(config))
