"""The flags by which programs for people name a model and a decoder; the same in all of them. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w2v.config import ArgumentParser, arg
from w2v.config.decoding import DecoderConfig
from w2v.errors import ConfigError

BUILT_IN = ("viterbi", "kenlm", "fairseqlm")


@dataclass(frozen=True)
class ModelOptions:
    """How a model is read, and in which numbers it computes."""

    dict: str | None = arg(
        None, help="dictionary file of a checkpoint that comes without one", metavar="FILE", reads="file"
    )
    language: str | None = arg(None, help="of a model of many languages (MMS): which one, such as eng", metavar="CODE")
    post_process: str | None = arg(
        None, help="how units become words: letter, sentencepiece, ... (default: as trained)"
    )
    user_dir: str | None = arg(None, help="python file, folder or package with your own models or decoders")
    cpu: bool = arg(False, help="never use a GPU")
    fp16: bool = arg(False, help="compute in half precision; on a CPU only where that is faster")
    bf16: bool = arg(False, help="compute in bfloat16; on a CPU only where that is faster")
    int8: bool = arg(False, help="on a CPU: transformer blocks in whole numbers of 8 bits, faster and nearly as exact")

    def __post_init__(self) -> None:
        if self.fp16 + self.bf16 + self.int8 > 1:
            raise ConfigError("--fp16, --bf16 and --int8 exclude each other; give one of them")


def decoder_kind(argv: Sequence[str]) -> tuple[str, type[DecoderConfig]]:
    """Return the decoder that a command line names, and its options; plugins are imported where one is named."""
    early = ArgumentParser(add_help=False)
    early.add_argument("--user-dir")
    early.add_argument("--w2l-decoder", default=BUILT_IN[0])
    known, _ = early.parse_known_args(list(argv))
    if not known.user_dir and known.w2l_decoder in BUILT_IN:
        return known.w2l_decoder, DecoderConfig
    from w2v.decoders import DECODERS
    from w2v.plugins import import_installed, import_user_dir

    import_installed()
    if known.user_dir:
        import_user_dir(known.user_dir)
    found: type[DecoderConfig] = DECODERS.get(known.w2l_decoder).config
    return known.w2l_decoder, found
