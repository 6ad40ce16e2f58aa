"""`w2v-transcribe`: what was said in recordings, with times: text, subtitles, annotations.

    w2v-transcribe MODEL talk.m4a

No manifest, dictionary or task: the checkpoint knows them. What takes long to import is imported after the flags.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2v.config import ArgumentParser, arg, build_config, check_range, str_tuple
from w2v.config.decoding import DecoderConfig
from w2v.config.sections import LOG_FORMATS
from w2v.data.pcm import PcmFormat, read_pcm_format
from w2v.errors import ConfigError, DataError
from w2v.inference.result import FORMATS, Segment, Transcript, read_formats
from w2v.inference.subtitles import SubtitleStyle
from w2v.inference.transcribe_options import TranscribeConfig
from w2v_cli.main import run
from w2v_cli.recordings import STANDARD_INPUT, Job, find_jobs
from w2v_cli.transcript_files import TranscriptFiles

if TYPE_CHECKING:
    from w2v.inference.recording import Recording
    from w2v.inference.transcriber import Transcriber

PROGRAM = "w2v-transcribe"
FAILED = 1  # exit code where a recording could not be transcribed
OF_ONE_FILE = ("srt", "vtt", "textgrid", "tsv")
BUILT_IN = ("viterbi", "kenlm", "fairseqlm")


@dataclass(frozen=True)
class TranscribeFlags:
    """What is transcribed, by which model, and where the transcripts go."""

    model: str = arg(
        help="checkpoint fine-tuned with CTC: ours, fairseq's, or a folder of Hugging Face", positional=True
    )
    input: tuple[str, ...] = arg(
        (), help="audio files, folders of them, or - (standard input)", positional=True, many=True, parse=tuple,
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
    post_process: str | None = arg(
        None, help="how units become words: letter, sentencepiece, ... (default: as trained)"
    )
    user_dir: str | None = arg(None, help="python file, folder or package with your own models or decoders")
    num_shards: int = arg(1, help="split the recordings over this many runs")
    shard_id: int = arg(0, help="which of them this run takes, from 0")
    num_workers: int = arg(2, help="recordings read at once")
    decode_workers: int | None = arg(None, help="processes that decode (default: all cores for kenlm, else 0)")
    cpu: bool = arg(False, help="never use a GPU")
    fp16: bool = arg(False, help="compute in half precision")
    bf16: bool = arg(False, help="compute in bfloat16")
    int8: bool = arg(False, help="on a CPU: transformer blocks in whole numbers of 8 bits, faster and nearly as exact")
    quiet: bool = arg(False, help="no progress; only errors")
    log_format: str | None = arg(
        None, help="how progress is shown (default: tqdm on a terminal, else json)", choices=LOG_FORMATS
    )
    log_interval: float = arg(10.0, help="seconds between two lines of progress")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "num_shards", "num_workers")
        check_range(self, 0, math.inf, "decode_workers", "log_interval")
        if not 0 <= self.shard_id < self.num_shards:
            raise ConfigError(f"--shard-id must be at least 0 and below --num-shards, got {self.shard_id}")
        if self.fp16 + self.bf16 + self.int8 > 1:
            raise ConfigError("--fp16, --bf16 and --int8 exclude each other; give one of them")
        if self.pcm is not None and STANDARD_INPUT not in self.input:
            raise ConfigError("--pcm says what standard input holds, and needs - as an input")
        if self.input.count(STANDARD_INPUT) > 1:
            raise ConfigError("standard input (-) can be read once only")
        if self.output_dir is None and len(self.output_format) > 1:
            raise ConfigError("--output-format with several formats needs --output-dir")


@dataclass(frozen=True)
class Flags:
    """All of the command line."""

    what: TranscribeFlags
    how: TranscribeConfig
    style: SubtitleStyle
    decoder: DecoderConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: transcribe(sys.argv[1:] if argv is None else argv))


def transcribe(argv: Sequence[str]) -> int:
    """Transcribe what the flags name; return 1 where a recording could not be.

    Raises:
        W2vError: a flag or the model breaks a rule; nothing is transcribed then.
    """
    flags = parse_flags(argv)
    jobs = find_jobs(flags.what.input, flags.what.ext)
    folder = _folder(flags, jobs)
    # torch is imported from here on: what is wrong with the flags is said at once.
    from w2v_cli.transcribe_run import open_run

    with open_run(flags.what, flags.how, flags.decoder) as (transcriber, decode, shard):
        if shard.count > 1 and folder is None:
            raise ConfigError(f"{shard.count} processes need --output-dir: their lines would mix on stdout")
        mine = jobs[shard.number :: shard.count]
        waiting = [job for job in mine if folder is None or not folder.is_done(job.output)]
        output = Output(flags, folder)
        recordings = _recordings(flags, waiting, transcriber)
        from w2v_cli.transcribe_run import Progress

        with Progress(flags.what, waiting, num_kept=len(mine) - len(waiting)) as progress:
            results = transcriber.transcripts(recordings, progress.watch(decode), output.heard)
            for job, result in zip(waiting, results, strict=True):
                failed = output.take(job, result)
                progress.done(job, result, failed)
            return FAILED if progress.num_failed else 0


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
        "subtitles": SubtitleStyle, f"decoder {known.w2l_decoder}": decoder,
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


def _folder(flags: Flags, jobs: Sequence[Job]) -> TranscriptFiles | None:
    what = flags.what
    if what.output_dir is None:
        (name,) = what.output_format
        if name in OF_ONE_FILE and len(jobs) > 1:
            raise ConfigError(f"--output-format {name} of {len(jobs)} recordings needs --output-dir")
        return None
    return TranscriptFiles(Path(what.output_dir), what.output_format, flags.style, what.overwrite)


def _recordings(flags: Flags, jobs: Sequence[Job], transcriber: Transcriber) -> Iterator[Recording]:
    from w2v.inference.recording import FileRecording, PipeRecording

    for job in jobs:
        if job.path == STANDARD_INPUT:
            keep = transcriber.loaded.task.config.normalize
            yield PipeRecording(sys.stdin.buffer, flags.what.pcm, keep=keep)
        else:
            yield FileRecording(job.path)


class Output:
    """Takes transcripts in their order: to files, or to stdout, where text appears as it is found.

    Args:
        flags: the command line.
        folder: where files go; None: to stdout.
    """

    def __init__(self, flags: Flags, folder: TranscriptFiles | None) -> None:
        self.flags = flags
        self.folder = folder
        self._is_text = folder is None and flags.what.output_format == ("txt",)
        self._has_begun = False

    def heard(self, segments: Sequence[Segment]) -> None:
        """Take segments of the recording whose turn it is."""
        if self._is_text:
            for segment in segments:
                print(" " if self._has_begun else "", segment.text, sep="", end="", flush=True)
                self._has_begun = True

    def take(self, job: Job, result: Any) -> str:
        """Take the transcript of a recording, or what stands for it; return why there is none."""
        if isinstance(result, Transcript):
            try:
                self._write(job, result)
            except DataError as e:
                return self._fail(str(e))
            return ""
        return self._fail(result.reason)

    def _write(self, job: Job, transcript: Transcript) -> None:
        if self.folder is not None:
            self.folder.write(job.output, transcript)
        elif self._is_text:
            print(flush=True)
            self._has_begun = False
        elif self.flags.what.output_format == ("json",):
            print(json.dumps(transcript.as_dict(), ensure_ascii=False, allow_nan=False), flush=True)
        else:
            (name,) = self.flags.what.output_format
            sys.stdout.write(FORMATS[name](transcript, self.flags.style))
            sys.stdout.flush()

    def _fail(self, reason: str) -> str:
        if self._is_text:  # the n-th line belongs to the n-th file
            print(flush=True)
            self._has_begun = False
        print(f"{PROGRAM}: {' '.join(reason.split())}", file=sys.stderr, flush=True)
        return reason


if __name__ == "__main__":
    sys.exit(main())
