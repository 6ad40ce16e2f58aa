"""The command line of `w2v-transcribe`. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from w2v.config import ArgumentParser, arg, check_range, str_tuple
from w2v.config.decoding import DecoderConfig
from w2v.config.sections import LOG_FORMATS
from w2v.data.pcm import PcmFormat, read_pcm_format
from w2v.errors import ConfigError
from w2v.inference.result import FORMATS, read_formats
from w2v.inference.subtitles import SubtitleStyle
from w2v.inference.transcribe_options import TranscribeConfig
from w2v_cli.label_flags import LabelFlags
from w2v_cli.model_flags import ModelOptions, decoder_kind
from w2v_cli.recordings import STANDARD_INPUT
from w2v_cli.shard_flags import ShardOptions
from w2v_cli.visualization.stretch import Stretch, parse_stretch

PROGRAM = "w2v-transcribe"


@dataclass(frozen=True)
class TranscribeFlags(ShardOptions, ModelOptions):
    """What is transcribed, by which model, and where the transcripts go."""

    model: str = arg(
        help="checkpoint fine-tuned with CTC: ours, fairseq's, or a folder of Hugging Face",
        positional=True,
        reads="model",
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
    picture: Stretch | None = arg(
        None,
        help="also draw a stretch of each recording, in seconds, with its words: NAME.png in --output-dir",
        parse=parse_stretch,
        metavar="START-END",
    )
    num_workers: int = arg(2, help="recordings read at once")
    decode_workers: int | None = arg(None, help="processes that decode (default: all cores for kenlm, else 0)")
    quiet: bool = arg(False, help="no progress; only errors")
    log_format: str | None = arg(
        None, help="how progress is shown (default: tqdm on a terminal, else json)", choices=LOG_FORMATS
    )
    log_interval: float = arg(10.0, help="seconds between two lines of progress")

    def __post_init__(self) -> None:
        ShardOptions.__post_init__(self)
        ModelOptions.__post_init__(self)
        check_range(self, 1, math.inf, "num_workers")
        check_range(self, 0, math.inf, "decode_workers", "log_interval")
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
    name, decoder = decoder_kind(argv)
    parser = ArgumentParser(
        prog=PROGRAM, description="Say what was said in recordings, and when.",
        epilog=f"Example: {PROGRAM} model.pt talk.m4a --output-dir out --output-format srt,json",
    )  # fmt: skip
    kinds: dict[str, type[Any]] = {
        "what, and where to": TranscribeFlags, "how recordings are cut": TranscribeConfig,
        "subtitles": SubtitleStyle, "labels": LabelFlags, f"decoder {name}": decoder,
    }  # fmt: skip
    return Flags(*parser.parse_configs(argv, kinds))
