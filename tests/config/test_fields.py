"""Options: literals that are read and never evaluated, conversions, ranges, unknown names, flags."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.config import (
    ArgumentParser,
    arg,
    build_config,
    check_range,
    float_pair,
    float_triple,
    float_tuple,
    int_tuple,
    options_of,
    parse_literal,
    str_tuple,
    to_plain,
)
from w2v.config.literals import MAX_LITERAL_CHARACTERS, MAX_LITERAL_ITEMS
from w2v.errors import ConfigError
from w2v.functional.conv_spec import conv_layers

# -------------------------------------------------------------------------------------------- literals

SCALARS = (
    st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.booleans()
    | st.none()
)
NESTED = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple), max_leaves=12
)


@settings(max_examples=60)
@given(NESTED)
def test_repr_comes_back(value: Any) -> None:
    assert parse_literal(repr(value)) == value


@given(st.lists(st.integers(0, 99), max_size=3), st.lists(st.integers(0, 99), max_size=3), st.integers(0, 9))
def test_joining_and_repeating(left: list[int], right: list[int], times: int) -> None:
    assert parse_literal(f"{left} + {right} * {times}") == left + right * times
    assert parse_literal(f"({left} + {right}) * {times}") == (left + right) * times


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but `ValueError` comes out; what Python's own literal reader takes is read alike."""
    try:
        value = parse_literal(text)
    except ValueError:
        return
    try:
        expected = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return
    assert value == expected or value != value  # nan


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2",
            [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2,
        ),
        ("(2,0.5,0.999995)", (2, 0.5, 0.999995)),
        ('["prob_perplexity","code_perplexity","temp"]', ["prob_perplexity", "code_perplexity", "temp"]),
        ("[0.1, 10]", [0.1, 10]),
        ('("/path/to/lm.bin","/path/to/lexicon",2,-1)', ("/path/to/lm.bin", "/path/to/lexicon", 2, -1)),
        ('{"a": [1, -2.5], "b": true, "c": null}', {"a": [1, -2.5], "b": True, "c": None}),
        ("-inf", -math.inf),
        ("  [1]\n", [1]),
        ("1e-05", 1e-5),
    ],
)
def test_spellings_of_the_original(text: str, value: Any) -> None:
    assert parse_literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "open('/etc/passwd')", "x", "().__class__", "[].append", "[x for x in (1,)]",
        "{x: 1 for x in (1,)}", "lambda: 1", "[1][0]", "1 if 1 else 2", "1 < 2", "not 1", "f'{1}'", "1 + 1", "2 ** 9",
        "10 // 3", "[1] - [1]", "[1] + (1,)", "4 * [1]", "[1] * 1.5", "[1] * [2]", "[1] * True", "'ab' * 3",
        "[*(1, 2)]", "{**{}}", "{[1]: 2}", "{(1,): 2}", "1; 2", "print(1)", "(yield)", "a := 1", "...", "b'x'", "1j",
        "{1, 2}", "", "[", "[1,,2]", "\x00", "[1]" + " * 2" * 40, "-'a'", "-[1]",
    ],
)  # fmt: skip
def test_nothing_else_is_read(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_literal(text)


@pytest.mark.parametrize(
    "text",
    [
        "[1] * 1025", "[1] * 1000 + [1] * 25", "[[1] * 1000] * 1000 * 1000", "[1] * 99999999999999999999",
        "(" * 3000 + ")" * 3000, "[" * 500 + "]" * 500, "-" * 4000 + "1", "1" * 5000, "[1]" + "+[1]" * 2000,
        "9" * 400, "[[[1] * 1000] * 1000] * 1000", "[[1] * 90] * 92", "[[1] * 1000] + [[1] * 1000] * 9",
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_unreasonable_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_literal(text)


def test_the_limits_themselves_pass() -> None:
    assert len(parse_literal(f"[0] * {MAX_LITERAL_ITEMS}")) == MAX_LITERAL_ITEMS
    assert parse_literal("1" + " " * (MAX_LITERAL_CHARACTERS - 1)) == 1


# ----------------------------------------------------------------------------------------- field parsers


@pytest.mark.parametrize("text", ["0.1,0.2", "[0.1, 0.2]", "(0.1,0.2)", "0.1, 0.2"])
def test_numbers_in_every_spelling(text: str) -> None:
    assert float_tuple(text) == (0.1, 0.2)
    assert float_pair(text) == (0.1, 0.2)


def test_one_number_is_a_tuple() -> None:
    assert float_tuple("0.0005") == (0.0005,)
    assert float_tuple(0.5) == (0.5,)
    assert int_tuple("4") == int_tuple([4]) == int_tuple(4) == (4,)


@pytest.mark.parametrize("text", ["", "a", "[]", "true", "[true]", "['a']", "1;2", "[[1]]"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        float_tuple(text)


def test_counts_are_checked() -> None:
    with pytest.raises(ValueError, match="three"):
        float_triple("(1, 2)")
    with pytest.raises(ValueError, match="two"):
        float_pair("1,2,3")
    with pytest.raises(ValueError, match="whole"):
        int_tuple("1.5")


def test_names_in_both_spellings() -> None:
    assert str_tuple('["a","b"]') == str_tuple("a, b") == str_tuple(("a", "b")) == ("a", "b")
    assert str_tuple("") == ()
    with pytest.raises(ValueError, match="list of names"):
        str_tuple("[1]")


def test_layers_round_trip_as_plain_data() -> None:
    layers = conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 2")
    assert conv_layers([list(layer) for layer in layers]) == layers


# ----------------------------------------------------------------------------------------------- configs


@dataclass(frozen=True)
class Config:
    data: str = arg(help="a folder", positional=True)
    width: int = arg(3, help="a width")
    rate: float = arg(0.5, help="a rate; 50% is a half")
    score: float = arg(0.0, help="a score")
    on: bool = arg(True, help="a switch that is on")
    off: bool = arg(False, help="a switch")
    no_mask: bool = arg(False, help="a switch whose name begins with no")
    kind: str = arg("plain", help="a kind", choices=("plain", "fancy"), aliases=("--sort",))
    limit: int | None = arg(None, help="a limit")
    name: str | None = arg(None, help="a name")
    layers: tuple[int, ...] = arg((1,), help="layers", parse=int_tuple)

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "rate")
        check_range(self, 1, math.inf, "width", "limit")


def parse(*argv: str) -> Config:
    parser = ArgumentParser(prog="program")
    parser.add_config(Config, "options")
    return build_config(Config, parser.parse(argv), "program")


def test_defaults() -> None:
    assert to_plain(parse("here")) == {
        "data": "here", "width": 3, "rate": 0.5, "score": 0.0, "on": True, "off": False, "no_mask": False,
        "kind": "plain", "limit": None, "name": None, "layers": [1],
    }  # fmt: skip


def test_every_kind_of_flag() -> None:
    config = parse(
        "--width", "7", "here", "--rate=1e-1", "--score", "-inf", "--no-on", "--off", "--no-mask", "--sort", "fancy",
        "--limit", "9", "--layers", "[1, 2]",
    )  # fmt: skip
    assert to_plain(config) == {
        "data": "here", "width": 7, "rate": 0.1, "score": -math.inf, "on": False, "off": True, "no_mask": True,
        "kind": "fancy", "limit": 9, "name": None, "layers": [1, 2],
    }  # fmt: skip


def test_the_last_of_two_values_counts() -> None:
    config = parse("here", "--width", "4", "--off", "--width", "5", "--no-off", "--on", "--no-mask", "--mask")
    assert (config.width, config.off, config.on, config.no_mask) == (5, False, True, False)


@pytest.mark.parametrize("value", ["-1.5", "-.5", "-1e-3", "-inf", "inf", "3", "1e400"])
def test_numbers_that_look_like_flags(value: str) -> None:
    assert parse("here", "--score", value).score == float(value)


def test_none_in_words() -> None:
    assert parse("here", "--limit", "none").limit is None
    assert parse("here", "--limit", "3", "--limit", "null").limit is None
    assert build_config(Config, {"data": "here", "limit": None}, "x").limit is None
    assert parse("here", "--kind", "plain").kind == "plain"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["here", "--widht", "3"], ["unknown flag --widht", "did you mean --width"]),
        (["here", "--widht=3"], ["unknown flag --widht", "did you mean --width"]),
        (["here", "--wid", "3"], ["unknown flag --wid"]),
        (["here", "there"], ["unexpected argument 'there'"]),
        (["here", "--zzzzzzz"], ["unknown flag --zzzzzzz"]),
        ([], ["data"]),
        (["here", "--width"], ["--width", "expected one argument"]),
        (["here", "--width", "1.5"], ["--width", "whole number", "1.5"]),
        (["here", "--width", "3x"], ["--width", "whole number", "'3x'"]),
        (["here", "--width", "0"], ["--width must be at least 1", "0"]),
        (["here", "--width", "9" * 30], ["--width", "whole number"]),
        (["here", "--rate", "1.5"], ["--rate must lie in [0, 1]", "1.5"]),
        (["here", "--rate", "nan"], ["--rate", "nan"]),
        (["here", "--layers", "inf"], ["--layers"]),
        (["here", "--layers", "9" * 40], ["--layers", "63 bits"]),
        (["here", "--rate", "much"], ["--rate", "'much'"]),
        (["here", "--kind", "fanzy"], ["--kind must be one of plain, fancy", "did you mean 'fancy'"]),
        (["here", "--off", "yes"], ["unexpected argument 'yes'"]),
        (["here", "--layers", "[1, 2.5]"], ["--layers", "whole numbers"]),
        (["here", "--layers", "__import__('os')"], ["--layers"]),
        (["here", "--width", "none"], ["--width", "whole number", "none"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_one_line_that_names_flag_rule_and_value(argv: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_from_a_file() -> None:
    """Plain data, as YAML has it."""
    values = {
        "data": "here",
        "width": 4.0,
        "rate": 1,
        "on": False,
        "layers": [1, 2],
        "_name": "ignored",
        "no-mask": True,
    }
    config = build_config(Config, values, "file")
    assert (config.width, config.rate, config.on, config.layers, config.no_mask) == (4, 1.0, False, (1, 2), True)
    assert type(config.width) is int
    assert type(config.rate) is float


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "section: data is required"),
        ({"data": "x", "wdith": 1}, "section: unknown option 'wdith'; did you mean 'width'"),
        ({"data": "x", "on": "perhaps"}, "--on: must be true or false, got 'perhaps'"),
        ({"data": "x", "on": 1}, "--on: must be true or false, got 1"),
        ({"data": "x", "width": True}, "--width: must be a whole number, got True"),
        ({"data": "x", "width": [1]}, "--width: must be a whole number, got [1]"),
        ({"data": "x", "width": None}, "--width needs a value"),
        ({"data": "x", "name": ["y"]}, "--name: must be text, got ['y']"),
        ({"data": "x", "rate": 10**400}, "--rate: "),
        ({"data": "x", "width": float("inf")}, "--width: must be a whole number, got inf"),
        ({"data": True}, "data: must be text, got True"),
    ],
)
def test_bad_values_from_a_file(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(Config, values, "section")
    assert words in str(caught.value)


def test_plain_data_comes_back() -> None:
    config = parse("here", "--width", "9", "--layers", "4,5", "--score", "-inf")
    assert build_config(Config, to_plain(config), "again") == config


def test_a_flag_has_one_owner() -> None:
    parser = ArgumentParser(prog="program")
    parser.add_config(Config, "first")
    other = dataclass(frozen=True)(type("Other", (), {"__annotations__": {"sort": str}, "sort": arg("a", help="x")}))
    with pytest.raises(ConfigError, match="--sort is declared twice: by first and by second"):
        parser.add_config(other, "second")


def test_help_shows_defaults_and_percent_signs() -> None:
    parser = ArgumentParser(prog="program")
    parser.add_config(Config, "options", {"width": 12})
    text = parser.format_help()
    assert "a width (default: 12)" in text
    assert "50% is a half (default: 0.5)" in text
    assert "a switch that is on (on; turn off with --no-on)" in text
    assert "--kind, --sort" in text or "--sort" in text


def test_switches_know_their_opposites() -> None:
    flags = {option.name: (option.flag, option.off_flag) for option in options_of(Config) if option.type is bool}
    assert flags == {
        "on": ("--on", "--no-on"), "off": ("--off", "--no-off"), "no_mask": ("--no-mask", "--mask"),
    }  # fmt: skip
