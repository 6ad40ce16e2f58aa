"""The command line of `w2v-live`. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from w2v.config import ArgumentParser, arg
from w2v.config.decoding import DecoderConfig
from w2v.data.pcm import PcmFormat, read_pcm_format
from w2v.errors import ConfigError
from w2v.inference.live_options import LiveOptions
from w2v.inference.result import FORMATS, read_formats
from w2v.inference.subtitles import SubtitleStyle
from w2v_cli.model_flags import ModelOptions, decoder_kind
from w2v_cli.recordings import STANDARD_INPUT
from w2v_cli.serve.flags import ServeOptions

PROGRAM = "w2v-live"


@dataclass(frozen=True)
class LiveFlags(ModelOptions):
    """What is heard, by which model, and where the words go."""

    model: str | None = arg(
        None,
        help="checkpoint fine-tuned with CTC: ours, fairseq's, or a folder of Hugging Face",
        positional=True,
        reads="model",
    )
    source: str | None = arg(
        None, help="an audio file, or - (standard input); left out: the microphone", positional=True, metavar="FILE|-"
    )
    device: str | None = arg(None, help="microphone: its number, or part of its name (default: the system's)")
    list_devices: bool = arg(False, help="list the microphones and end")
    pcm: PcmFormat | None = arg(
        None, help="standard input holds raw samples: KIND:RATE:CHANNELS, such as s16le:16000:1 (default: a WAV file)",
        parse=read_pcm_format,
    )  # fmt: skip
    realtime: bool = arg(
        False, help="hear a file at the pace at which it was spoken; take standard input for a microphone, which does "
        "not wait: what there is no time for is dropped and counted"
    )  # fmt: skip
    json: bool = arg(False, help="write every event as a line of JSON, partial hypotheses too")
    output_dir: str | None = arg(
        None, help="folder for the transcript, complete after every utterance", aliases=("-o",)
    )
    output_format: tuple[str, ...] = arg(
        ("txt", "srt", "json"), help=f"its formats: {', '.join(FORMATS)}, parted by commas, or all", aliases=("-f",),
        parse=read_formats,
    )  # fmt: skip
    overwrite: bool = arg(False, help="replace a transcript of the same name in --output-dir")
    quiet: bool = arg(False, help="nothing on stderr but errors and dropped audio")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None and not self.list_devices:
            raise ConfigError("name a model, such as w2v-live model.pt")
        if self.pcm is not None and self.source != STANDARD_INPUT:
            raise ConfigError("--pcm says what standard input holds, and needs - as the source")
        if self.device is not None and self.source is not None:
            raise ConfigError(f"--device is for a microphone, but the source is {self.source}; leave one of them out")
        if self.realtime and self.source is None:
            raise ConfigError("--realtime is for a file or standard input; a microphone always is in real time")


@dataclass(frozen=True)
class Flags:
    """All of the command line."""

    what: LiveFlags
    how: LiveOptions
    style: SubtitleStyle
    serve: ServeOptions
    decoder: DecoderConfig

    def __post_init__(self) -> None:
        what = self.what
        of_one_stream = {
            f"the source {what.source}": what.source, "--device": what.device, "--list-devices": what.list_devices,
            "--pcm": what.pcm, "--realtime": what.realtime, "--json": what.json, "--output-dir": what.output_dir,
        }  # fmt: skip
        given = next((name for name, value in of_one_stream.items() if value), None)
        if self.serve.serve and given is not None:
            raise ConfigError(f"--serve hears those who open its page, each for themselves; leave out {given}")


def parse_flags(argv: Sequence[str]) -> Flags:
    """Read the command line; plugins, whose decoders may have flags of their own, are imported where one is named."""
    name, decoder = decoder_kind(argv)
    parser = ArgumentParser(
        prog=PROGRAM, description="Write down speech while it is spoken, from a microphone, a pipe or a file.",
        epilog=f"Example: {PROGRAM} model.pt; ffmpeg -i URL -f wav - | {PROGRAM} model.pt - --json",
    )  # fmt: skip
    kinds: dict[str, type[Any]] = {
        "what, and where to": LiveFlags, "how speech is cut": LiveOptions, "subtitles": SubtitleStyle,
        "a page in the browser": ServeOptions, f"decoder {name}": decoder,
    }  # fmt: skip
    return Flags(*parser.parse_configs(argv, kinds))
