"""The command line of `w2v-infer` and `w2v-infer tune`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from w2v.config import ArgumentParser
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
    return ArgumentParser(prog=program, description=purpose).parse_configs(argv, kinds)
