"""The command line of `w2v-infer` and `w2v-infer tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from w2v.config import ArgumentParser, build_config
from w2v.config.unsupported_flags import refuse_unsupported
from w2v.decoders import DECODERS
from w2v.plugins import import_installed, import_user_dir


def parse_flags(argv: Sequence[str], program: str, purpose: str, **kinds: type[Any]) -> tuple[Any, ...]:
    """Read the command line; plugins are imported first, because they may add decoders.

    Args:
        argv: the arguments.
        program: its name, for messages.
        purpose: what it does, for `--help`.
        kinds: title -> config dataclass whose flags there are, beside those of the decoder.

    Returns:
        one config of each kind, and the decoder's.
    """
    refuse_unsupported(argv, program)
    early = ArgumentParser(prog=program, add_help=False)
    early.add_argument("--user-dir")
    early.add_argument("--w2l-decoder", default="viterbi")
    known, _ = early.parse_known_args(list(argv))
    import_installed()
    if known.user_dir:
        import_user_dir(known.user_dir)
    kinds[f"decoder {known.w2l_decoder}"] = DECODERS.get(known.w2l_decoder).config
    parser = ArgumentParser(prog=program, description=purpose)
    for title, kind in kinds.items():
        parser.add_config(kind, title)
    values = parser.parse(argv)
    return tuple(_pick(kind, values, program) for kind in kinds.values())


def _pick(kind: type[Any], values: Mapping[str, Any], program: str) -> Any:
    names = {item.name for item in fields(kind)}
    return build_config(kind, {name: value for name, value in values.items() if name in names}, program)
