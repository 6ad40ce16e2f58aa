"""A dataclass field is a flag, a YAML key and a checkpoint entry."""

from w2v.config.fields import REQUIRED, Option, arg, build_config, check_range, options_of, to_plain
from w2v.config.literals import (
    byte_size,
    float_pair,
    float_triple,
    float_tuple,
    int_tuple,
    parse_literal,
    str_tuple,
)
from w2v.config.parser import ArgumentParser

__all__ = [
    "REQUIRED",
    "ArgumentParser",
    "Option",
    "arg",
    "build_config",
    "byte_size",
    "check_range",
    "float_pair",
    "float_triple",
    "float_tuple",
    "int_tuple",
    "options_of",
    "parse_literal",
    "str_tuple",
    "to_plain",
]
