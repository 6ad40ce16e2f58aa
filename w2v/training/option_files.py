"""Files of options behind a command line: `--config`, Hydra's spelling of it, and `--recipe`.

One layer lies over another; each option remembers where it stands. Keys of the original's files that are spelled
otherwise here are translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from w2v.config import options_of
from w2v.config.original_keys import COPIES, FOLLOWING, NEUTRAL, NOT_GIVEN, is_neutral, is_reference
from w2v.config.recipes import recipe_path
from w2v.config.unsupported_flags import TRAIN
from w2v.config.yaml_file import ConfigFile, read_config_file
from w2v.errors import ConfigError
from w2v.registry import Entry

REFERENCE = re.compile(r"\$\{(\w+)\.(\w+)\}")
MISSING = "???"
"""The original's mark of an option that must be given."""
LONGEST_CHAIN = 8
"""References from one option to the next."""


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
    known = tuple(sections)
    own = _without_copies(read_config_file(config, known)) if config else ConfigFile()
    if typed:
        places = {(part, name): f"{part}.{name}=" for part, values in typed.items() for name in values}
        own = ConfigFile("", typed, places).over(own)
    return _resolved(own), read_config_file(str(recipe_path(recipe)), known) if recipe else ConfigFile()


def _without_copies(file: ConfigFile) -> ConfigFile:
    """Leave out what only repeats another option, as full dumps of the original do.

    Raises:
        ConfigError: a copy has another value; all of them are named.
    """
    wrong = []
    for (section, name), (part, target) in FOLLOWING.items():
        if file.section(section).get(name) == f"${{{part}.{target}}}":
            file = file.drop(section, name)  # so that it also follows what is typed
    for (section, name), (part, target) in COPIES.items():
        if name not in file.section(section):
            continue
        value, original = file.section(section)[name], file.section(part).get(target)
        if value is not None and not is_reference(value) and _as_list(value) != _as_list(original):
            where = file.where(section, name)
            wrong.append(f"{where}: {section}.{name} is {value}, but {part}.{target}, which counts here, is {original}")
        file = file.leave_out(section, name)
    if wrong:
        raise ConfigError("; ".join(wrong))
    # A fine-tuned checkpoint of the original holds the whole dump of its encoder's run; --w2v-path says the same.
    encoder = file.section("model").get("w2v_args")
    is_dump = isinstance(encoder, dict) and "model" in encoder
    return file.leave_out("model", "w2v_args") if is_dump else file


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _resolved(file: ConfigFile) -> ConfigFile:
    """Return a file whose references `${section.option}` are the values of these options.

    Raises:
        ConfigError: the file lacks one, or it is a reference of another kind, as to the environment.
    """
    for section, values in file.sections.items():
        for name, value in values.items():
            if "${" not in str(value) or name in NEUTRAL.get(section, {}):
                continue
            found, where = value, file.where(section, name)
            for _ in range(LONGEST_CHAIN):
                match = REFERENCE.fullmatch(str(found))
                if match is None or match[2] not in file.section(match[1]):
                    break
                found = file.section(match[1])[match[2]]
            if "${" in str(found):
                raise ConfigError(
                    f"{where}: {name}: {str(value)[:200]} is no option of this file, as ${{task.data}} may be; write "
                    "the value itself"
                )
            file = file.put(section, name, found, where)
    return file


def translate(file: ConfigFile, entries: Mapping[str, Entry[Any]]) -> ConfigFile:
    """Bring keys of the original's files to their places here.

    Raises:
        ConfigError: a key has no counterpart.
    """
    file = _floor_of_cosine(_sentence_avg(file, entries))
    labels = file.section("task").get("labels")
    if isinstance(labels, list):  # of HuBERT, one per label set
        file = file.put("task", "labels", ",".join(map(str, labels)), file.where("task", "labels"))
    for (section, name), unlimited in NOT_GIVEN.items():
        if file.section(section).get(name) == unlimited:
            file = file.leave_out(section, name)
    criterion = dict(file.section("criterion"))
    if "wer_kenlm_model" not in criterion:
        return file
    where = file.where("criterion", "wer_kenlm_model")
    if criterion.get("wer_sil_weight"):
        raise ConfigError(f"{where}: wer_sil_weight: silence has no weight of its own in validation; leave it out")
    names = ("wer_kenlm_model", "wer_lexicon", "wer_lm_weight", "wer_word_score")
    values = [criterion.get(name, default) for name, default in zip(names, (None, None, 2.0, -1.0), strict=True)]
    for name in (name for name in (*names, "wer_sil_weight") if name in criterion):
        file = file.leave_out("criterion", name) if values[0] is None else file.drop("criterion", name)
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


def _floor_of_cosine(file: ConfigFile) -> ConfigFile:
    # In the later releases an option of this schedule.
    value = file.section("lr_scheduler").get("min_lr")
    if value is None or "min_lr" in file.section("optimization"):
        return file
    where = file.where("lr_scheduler", "min_lr")
    return file.drop("lr_scheduler", "min_lr").put("optimization", "min_lr", value, where)


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
    """Return a file without options that are not carried here and that change nothing, which are noted."""
    for section, values in file.sections.items():
        for name, value in values.items():
            if name.startswith("_") or section not in configs or _has_option(configs[section], name):
                continue
            is_off = not value and f"--{name.replace('_', '-')}" in TRAIN
            if is_off or is_neutral(section, name, value):
                file = file.leave_out(section, name)
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
