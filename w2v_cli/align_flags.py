"""The command line of `w2v-align`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from w2v.config import ArgumentParser, arg, check_range
from w2v.errors import ConfigError
from w2v.inference.align_options import AlignmentConfig
from w2v.inference.clip_cutting import CutConfig
from w2v.inference.result import FORMATS, read_formats
from w2v.inference.subtitles import SubtitleStyle
from w2v_cli.shard_flags import ShardOptions
from w2v_cli.visualization.stretch import Stretch, parse_stretch

PURPOSE = (
    "Find when each word of a text was said. AUDIO is a recording (TEXT: the file of its text, by default the .txt or "
    ".lab file beside it), a folder of recordings with such files, or a manifest (TEXT: its lines, by default the .wrd "
    "file beside it). Each line of a text becomes a segment. Exit code 3: a text was not heard; 1: some of many "
    "recordings could not be aligned."
)


@dataclass(frozen=True)
class ProgramConfig(ShardOptions):
    """What is aligned, and what is left of it."""

    model: str = arg(
        help="checkpoint of a model fine-tuned with CTC, or emissions that w2v-infer --dump-emissions wrote",
        positional=True,
        reads="model",
    )
    audio: str = arg(help="recording, folder, or manifest (.tsv)", positional=True)
    text: str | None = arg(None, help="file of the text", positional=True)
    output_format: tuple[str, ...] | None = arg(
        None,
        help=f"formats of {', '.join(FORMATS)}, separated by commas, or all (default: all into --output-dir, ctm to "
        "stdout)",
        parse=read_formats,
        metavar="FORMATS",
    )
    output_dir: str | None = arg(None, help="folder for the files (default: one format goes to stdout)")
    overwrite: bool = arg(False, help="write files anew that are there already")
    min_confidence: float = arg(
        0.1, help="a text whose median is below was not heard; of --split, words below it spoil their stretch"
    )
    split: str | None = arg(
        None, help="cut the recordings at pauses into clips: FOLDER with clips, train.tsv, labels and rejects.tsv",
        metavar="FOLDER",
    )  # fmt: skip
    picture: Stretch | None = arg(
        None,
        help="also draw a stretch of each recording, in seconds, with its words: NAME.png in --output-dir",
        parse=parse_stretch,
        metavar="START-END",
    )
    post_process: str | None = arg(None, help="how units become words: letter, sentencepiece, ...")
    dict: str | None = arg(
        None, help="dictionary file of a checkpoint that comes without one", metavar="FILE", reads="file"
    )
    language: str | None = arg(None, help="of a model of many languages (MMS): which one, such as eng", metavar="CODE")
    max_tokens: int | None = arg(None, help="largest batch: windows x longest window, in samples (default: one window)")
    num_workers: int | None = arg(None, help="processes that align (default: all cores; 0: this one)")
    num_threads: int = arg(2, help="recordings read at once")
    allow_outside_root: bool = arg(False, help="take recordings that a manifest names by absolute paths or with `..`")
    cpu: bool = arg(False, help="never use CUDA")
    fp16: bool = arg(False, help="compute in half precision; on a CPU only where that is faster")
    bf16: bool = arg(False, help="compute in bfloat16; on a CPU only where that is faster")
    user_dir: str | None = arg(None, help="python file, folder or package with your own models")
    quiet: bool = arg(False, help="no progress; only warnings and the result")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, 1, "min_confidence")
        check_range(self, 1, math.inf, "max_tokens", "num_threads")
        check_range(self, 0, math.inf, "num_workers")
        if self.fp16 and self.bf16:
            raise ConfigError("--fp16 and --bf16 exclude each other; give one of them")
        if self.output_dir is None and self.picture is not None:
            raise ConfigError("--picture needs --output-dir, where the pictures go")
        if self.output_dir is None and len(self.output_format or ()) > 1:
            raise ConfigError(f"--output-format {','.join(self.output_format or ())} needs --output-dir")

    @property
    def formats(self) -> tuple[str, ...]:
        return self.output_format or (tuple(FORMATS) if self.output_dir is not None else ("ctm",))


@dataclass(frozen=True)
class AlignFlags:
    """All flags of `w2v-align`."""

    program: ProgramConfig
    alignment: AlignmentConfig
    cut: CutConfig
    style: SubtitleStyle


def parse_flags(argv: Sequence[str]) -> AlignFlags:
    """Read the command line."""
    parser = ArgumentParser(prog="w2v-align", description=PURPOSE)
    kinds: dict[str, type[Any]] = {
        "what": ProgramConfig, "alignment": AlignmentConfig, "clips": CutConfig, "subtitles": SubtitleStyle,
    }  # fmt: skip
    return AlignFlags(*parser.parse_configs(argv, kinds))
