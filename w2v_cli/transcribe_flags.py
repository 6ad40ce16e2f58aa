"""The command line of `w2v-transcribe`. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from w2v.config import ArgumentParser, arg, build_config, check_range, str_tuple
from w2v.config.decoding import DecoderConfig
from w2v.config.sections import LOG_FORMATS
from w2v.data.pcm import PcmFormat, read_pcm_format
from w2v.errors import ConfigError
from w2v.inference.result import FORMATS, read_formats
from w2v.inference.subtitles import SubtitleStyle
from w2v.inference.transcribe_options import TranscribeConfig
from w2v_cli.label_flags import LabelFlags
from w2v_cli.recordings import STANDARD_INPUT
from w2v_cli.shard_flags import ShardOptions
from w2v_cli.visualization.stretch import Stretch, parse_stretch

PROGRAM = "w2v-transcribe"
BUILT_IN = ("viterbi", "kenlm", "fairseqlm")


@dataclass(frozen=True)
class TranscribeFlags(ShardOptions):
    """What is transcribed, by which model, and where the transcripts go."""

    model: str = arg(
        help="checkpoint fine-tuned with CTC: ours, fairseq's, or a folder of Hugging Face", positional=True
    )
    input: tuple[str, ...] = arg(
        (), help="audio files, folders or manifests (.tsv) of them, or - (standard input)", positional=True,
        many=True, parse=tuple,
        metavar="FILE|FOLDER|-",
    )  # fmt: skip
    output_dir: str | None = arg(
        None, help="folder for the transcripts (default: text to stdout, one line per file)", aliases=("-o",)
    )
    output_format: tuple[str, ...] = arg(
        ("txt",), help=f"{', '.join(FORMATS)}, parted by commas, or all", aliases=("-f",), parse=read_formats
    )
    overwrite: bool = arg(False, help="transcribe again what has its files in --output-dir already")
    ext: tuple[str, ...] = arg((), help="endings of audio files in folders (default: all known ones)", parse=str_tuple)
    pcm: PcmFormat | None = arg(
        None, help="standard input holds raw samples: KIND:RATE:CHANNELS, such as s16le:16000:1", parse=read_pcm_format
    )
    dict: str | None = arg(None, help="dictionary file of a checkpoint that comes without one", metavar="FILE")
    picture: Stretch | None = arg(
        None,
        help="also draw a stretch of each recording, in seconds, with its words: NAME.png in --output-dir",
        parse=parse_stretch,
        metavar="START-END",
    )
    post_process: str | None = arg(
        None, help="how units become words: letter, sentencepiece, ... (default: as trained)"
    )
    user_dir: str | None = arg(None, help="python file, folder or package with your own models or decoders")
    num_workers: int = arg(2, help="recordings read at once")
    decode_workers: int | None = arg(None, help="processes that decode (default: all cores for kenlm, else 0)")
    cpu: bool = arg(False, help="never use a GPU")
    fp16: bool = arg(False, help="compute in half precision; on a CPU only where that is faster")
    bf16: bool = arg(False, help="compute in bfloat16; on a CPU only where that is faster")
    int8: bool = arg(False, help="on a CPU: transformer blocks in whole numbers of 8 bits, faster and nearly as exact")
    quiet: bool = arg(False, help="no progress; only errors")
    log_format: str | None = arg(
        None, help="how progress is shown (default: tqdm on a terminal, else json)", choices=LOG_FORMATS
    )
    log_interval: float = arg(10.0, help="seconds between two lines of progress")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, math.inf, "num_workers")
        check_range(self, 0, math.inf, "decode_workers", "log_interval")
        if self.fp16 + self.bf16 + self.int8 > 1:
            raise ConfigError("--fp16, --bf16 and --int8 exclude each other; give one of them")
        if self.pcm is not None and STANDARD_INPUT not in self.input:
            raise ConfigError("--pcm says what standard input holds, and needs - as an input")
        if self.input.count(STANDARD_INPUT) > 1:
            raise ConfigError("standard input (-) can be read once only")
        if self.picture is not None and (self.output_dir is None or STANDARD_INPUT in self.input):
            raise ConfigError("--picture needs --output-dir, where the pictures go, and files as inputs")
        if self.output_dir is None and len(self.output_format) > 1:
            raise ConfigError("--output-format with several formats needs --output-dir")


@dataclass(frozen=True)
class Flags:
    """All of the command line."""

    what: TranscribeFlags
    how: TranscribeConfig
    style: SubtitleStyle
    labels: LabelFlags
    decoder: DecoderConfig


def parse_flags(argv: Sequence[str]) -> Flags:
    """Read the command line; plugins, whose decoders may have flags of their own, are imported where one is named."""
    early = ArgumentParser(prog=PROGRAM, add_help=False)
    early.add_argument("--user-dir")
    early.add_argument("--w2l-decoder", default=BUILT_IN[0])
    known, _ = early.parse_known_args(list(argv))
    decoder: type[DecoderConfig] = DecoderConfig
    if known.user_dir or known.w2l_decoder not in BUILT_IN:
        decoder = _plugin_config(known.user_dir, known.w2l_decoder)
    parser = ArgumentParser(
        prog=PROGRAM, description="Say what was said in recordings, and when.",
        epilog=f"Example: {PROGRAM} model.pt talk.m4a --output-dir out --output-format srt,json",
    )  # fmt: skip
    kinds: dict[str, type[Any]] = {
        "what, and where to": TranscribeFlags, "how recordings are cut": TranscribeConfig,
        "subtitles": SubtitleStyle, "labels": LabelFlags, f"decoder {known.w2l_decoder}": decoder,
    }  # fmt: skip
    for title, kind in kinds.items():
        parser.add_config(kind, title)
    values = parser.parse(argv)
    return Flags(*(_pick(kind, values) for kind in kinds.values()))


def _plugin_config(user_dir: str | None, name: str) -> type[DecoderConfig]:
    from w2v.decoders import DECODERS
    from w2v.plugins import import_installed, import_user_dir

    import_installed()
    if user_dir:
        import_user_dir(user_dir)
    found: type[DecoderConfig] = DECODERS.get(name).config
    return found


def _pick(kind: type[Any], values: Mapping[str, Any]) -> Any:
    names = {item.name for item in fields(kind)}
    return build_config(kind, {name: value for name, value in values.items() if name in names}, PROGRAM)
