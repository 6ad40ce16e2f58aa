"""Every flag: its type, default and owner as they were last agreed on; and what became of the original's flags.

A flag that is added, changed or dropped shows here. `W2V_WRITE_FLAGS=1 pytest tests/architecture/test_flags.py` writes
the list anew, so that the change can be read in the diff.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from w2v.config import REQUIRED, ArgumentParser, Option, options_of, to_plain
from w2v.config.unsupported_flags import TRAIN as UNSUPPORTED
from w2v.criterions import CRITERIONS
from w2v.decoders.base import DECODERS
from w2v.models import MODELS
from w2v.optim import LR_SCHEDULERS, OPTIMIZERS
from w2v.registry import Entry
from w2v.tasks import TASKS
from w2v.training.options import REGISTRIES, ROOT_SECTIONS, SHORT_FLAGS
from w2v_cli import (
    align,
    convert,
    featurize,
    infer,
    kmeans,
    labels,
    live,
    lm,
    manifest,
    segment,
    tokenize,
    transcribe,
    visualize,
)

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "tests" / "assets" / "flags"
OURS = ASSETS / "w2v.json"
ORIGINAL: dict[str, dict[str, dict[str, Any]]] = json.loads((ASSETS / "original.json").read_text(encoding="utf-8"))
WRITE = bool(os.environ.get("W2V_WRITE_FLAGS"))

PROGRAMS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "w2v-manifest": (manifest.main, []),
    "w2v-segment": (segment.main, []),
    "w2v-labels": (labels.main, []),
    "w2v-align": (align.main, []),
    "w2v-featurize": (featurize.main, []),
    "w2v-tokenize": (tokenize.main, []),
    "w2v-kmeans": (kmeans.main, []),
    "w2v-lm": (lm.main, []),
    "w2v-transcribe": (transcribe.main, []),
    "w2v-live": (live.main, []),
    "w2v-convert": (convert.main, []),
    "w2v-visualize": (visualize.main, []),
    "w2v-visualize curves": (visualize.main, ["curves"]),
    **{f"w2v-infer {name}": (infer.main, ["--w2l-decoder", name]) for name in DECODERS.names()},
    "w2v-infer tune": (infer.main, ["tune"]),
    "w2v-infer compare": (infer.main, ["compare"]),
}

# Where a default differs from the original's, and why. Group, flag -> reason.
DIFFERENT = {
    ("common", "--distributed-backend"): "nccl with CUDA, gloo without: the original cannot train on CPUs in parallel",
    ("common", "--distributed-world-size"): "one process per visible GPU, as the original does when none is typed",
    ("criterion wav2vec", "--log-keys"): "an empty list instead of none",
    ("common", "--lr"): "none: it is required, because 0.25 suits none of these models",
    ("lr_scheduler polynomial_decay", "--total-num-update"): "--max-update, as in later releases; a million without it",
    ("lr_scheduler cosine", "--max-lr"): "none, so that both meanings of --lr can be told apart",
    ("model wav2vec_ctc", "--feature-grad-mult"): "0, which the architecture says; the parser's none crashes",
}


class CapturedError(Exception):
    """Carries the parser of a program out of it."""


def program_parser(name: str) -> ArgumentParser:
    """Return the parser of a program other than w2v-train, by calling it up to the reading of its arguments."""
    main, arguments = PROGRAMS[name]

    def capture(parser: ArgumentParser, argv: Any) -> None:
        raise CapturedError(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArgumentParser, "parse", capture)
        with pytest.raises(CapturedError) as caught:
            main(arguments)
    parser: ArgumentParser = caught.value.args[0]
    return parser


def program_options(name: str) -> list[Option]:
    return list(program_parser(name).options.values())


def described(option: Option, defaults: dict[str, Any]) -> dict[str, Any]:
    kind = option.parse.__name__ if option.parse else option.type.__name__
    default = defaults.get(option.name, option.default)
    text: dict[str, Any] = {"type": kind.lstrip("_") + ("?" if option.optional else "")}
    text["default"] = "(required)" if default is REQUIRED else str(default)
    if option.choices:
        text["choices"] = list(option.choices)
    if option.aliases:
        text["aliases"] = list(option.aliases)
    return text


def entries() -> Iterator[tuple[str, Entry[Any]]]:
    for section, registry in REGISTRIES.items():
        for name in registry.names():
            entry = registry.get(name)
            if entry.defined_in.startswith("w2v."):
                yield f"{section} {name}", entry


def all_flags() -> dict[str, dict[str, Any]]:
    """Return owner -> flag -> description; of a preset only what it changes."""
    flags = {
        section: {option.flag: described(option, {}) for option in options_of(config)}
        for section, config in ROOT_SECTIONS.items()
    }
    for owner, entry in entries():
        changed = entry.overrides
        options = [option for option in options_of(entry.config) if not changed or option.name in changed]
        flags[owner] = {option.flag: described(option, dict(changed)) for option in options}
    for name in PROGRAMS:
        flags[name] = {option.flag: described(option, {}) for option in program_options(name)}
    return flags


def test_the_flags_are_those_agreed_on() -> None:
    found = all_flags()
    if WRITE:
        owners = (
            f" {json.dumps(owner)}: {{\n" + ",\n".join(f"  {json.dumps(f)}: {json.dumps(d)}" for f, d in flags.items())
            for owner, flags in found.items()
        )
        OURS.write_text("{\n" + "\n },\n".join(owners) + "\n }\n}\n", encoding="utf-8")
    agreed = json.loads(OURS.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(agreed)
    for owner, flags in agreed.items():
        assert found[owner] == flags, owner


def test_every_flag_is_explained() -> None:
    configs = [*ROOT_SECTIONS.values(), *(entry.config for _, entry in entries())]
    options = [option for config in configs for option in options_of(config)]
    options += [option for name in PROGRAMS for option in program_options(name)]
    for option in options:
        assert len(option.help) >= 10, option.flag
        assert not option.help.endswith(".") or option.help.endswith("..."), option.flag


def test_switches_that_are_on_can_be_turned_off() -> None:
    """And no flag is both an option and the opposite of one."""
    for _, entry in entries():
        options = options_of(entry.config)
        flags = {option.flag for option in options}
        assert not flags & {option.off_flag for option in options if option.type is bool}


@pytest.mark.parametrize("owner", [owner for owner, _ in entries()])
def test_defaults_survive_as_plain_data(owner: str) -> None:
    entry = dict(entries())[owner]
    known = {option.name: option for option in options_of(entry.config)}
    required = {name: "x" for name, option in known.items() if option.default is REQUIRED}
    config = entry.config(**{**required, **entry.overrides})
    assert {name: known[name].convert(value) for name, value in to_plain(config).items()} == vars(config)


# ---------------------------------------------------------------------------------------- pages

PAGES = [
    path
    for pattern in ("README.md", "docs/*.md", "examples/*/README.md", "examples/*/*.sh", "benchmarks/*.md")
    for path in sorted(REPOSITORY.glob(pattern))
]
# Of the original's own command line, and of the plugin that the page is about.
NOT_OURS = {"--config-dir", "--config-name", "--snr", "--smoothing"}


def shown_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of a page, from the program on; of a pipe, all commands."""
    text = page.read_text(encoding="utf-8")
    code = [text] if page.suffix == ".sh" else re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    lines += [part.replace("\n", " ") for part in re.findall(r"`(w2v-[^`]+)`", text)]
    for line in lines:
        for part in re.split(r"[|;&#]", line):
            words = part.split()
            first = next((i for i, word in enumerate(words) if re.fullmatch(r"w2v-[a-z]+", word)), len(words))
            if words[first:]:
                yield words[first:]


@functools.cache
def spellings(program: str) -> set[str]:
    """Return every flag that a program lists, as typed."""
    if program != "w2v-train":
        parsers = [program_parser(name) for name in PROGRAMS if name.split()[0] == program]
        text = " ".join(parser.format_help() for parser in parsers)
        hidden = {option.off_flag for parser in parsers for option in parser.options.values()}
        return hidden.union(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    configs = [*ROOT_SECTIONS.values(), *(entry.config for _, entry in entries())]
    options = [option for config in configs for option in options_of(config)]
    choices = {registry.flag for registry in REGISTRIES.values()}
    choices |= {"--help", "--version", "--config", "--recipe", "--print-config"}
    return choices.union(*({option.flag, option.off_flag, *option.aliases} for option in options))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_flag_of_a_shown_command_exists(page: Path) -> None:
    for program, *words in shown_commands(page):
        flags = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert flags - NOT_OURS <= spellings(program), f"{program} {' '.join(words)}"


# ---------------------------------------------------------------------------------------- the original


def options_of_group(group: str) -> dict[str, Option]:
    """Return our options by every spelling, for a group of the original's flags."""
    if group == "common":
        configs = list(ROOT_SECTIONS.values())
        # Of the criterion, in the original for all criterions.
        configs += [CRITERIONS.get("ctc").config]
    else:
        section, name = group.split()
        configs = [REGISTRIES[section].get(name).config]
    options = [option for config in configs for option in options_of(config)]
    return {flag: option for option in options for flag in (option.flag, *option.aliases)}


FLAGS = [(group, flag) for group, flags in ORIGINAL.items() for flag in flags]
CHOICES = {flag for section, registry in REGISTRIES.items() for flag in (registry.flag, *SHORT_FLAGS.get(section, ()))}


@pytest.mark.parametrize(("group", "flag"), FLAGS)
def test_every_flag_of_the_original_is_accepted_or_refused(group: str, flag: str) -> None:
    accepted = {*options_of_group(group), *CHOICES}
    for spelling in (flag, *ORIGINAL[group][flag].get("aliases", ())):
        assert spelling in accepted or spelling in UNSUPPORTED, f"{group}: {spelling}"


@pytest.mark.parametrize(("group", "flag"), FLAGS)
def test_its_default_is_ours(group: str, flag: str) -> None:
    options = options_of_group(group)
    if flag not in options:
        return
    option, text = options[flag], ORIGINAL[group][flag]["default"]
    ours = option.default
    if ours is REQUIRED:
        assert text == "None"
        return
    theirs = None if text in ("None", "(config dataclass)") else option.convert(text)
    if (group, flag) in DIFFERENT:
        assert ours != theirs, f"{group}: {flag} does not differ any more; take it out of the list"
    else:
        assert ours == theirs, f"{group}: {flag} has the default {ours!r} here and {theirs!r} in the original"


def test_the_list_of_differences_has_reasons() -> None:
    assert all(DIFFERENT.values())
    assert set(DIFFERENT) <= set(FLAGS)


def test_nothing_is_both_carried_and_refused_for_all() -> None:
    root = {flag for config in ROOT_SECTIONS.values() for option in options_of(config) for flag in (option.flag,)}
    assert not root & set(UNSUPPORTED)
    registries = (MODELS, CRITERIONS, TASKS, OPTIMIZERS, LR_SCHEDULERS)
    carried = {o.flag for r in registries for name in r.names() for o in options_of(r.get(name).config)}
    # These belong to one choice and are explained where another one was made.
    noise = {"--quant-noise-pq", "--quant-noise-pq-block-size", "--quant-noise-scalar"}
    files = {"--dataset-impl", "--shorten-method", "--shorten-data-split-list"}
    assert carried & set(UNSUPPORTED) <= {"--force-anneal", *noise, *files}
