"""`w2v-transcribe`: what was said in recordings, with times: text, subtitles, annotations.

    w2v-transcribe MODEL talk.m4a

No manifest, dictionary or task: the checkpoint knows them. What takes long to import is imported after the flags.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2v.config.named_files import check_named_files
from w2v.errors import ConfigError, DataError
from w2v.inference.result import FORMATS, Segment, Transcript
from w2v_cli.main import run
from w2v_cli.recordings import STANDARD_INPUT, Job, find_jobs
from w2v_cli.transcribe_flags import PROGRAM, Flags, parse_flags
from w2v_cli.transcript_files import TranscriptFiles
from w2v_cli.visualization.stretch import write_picture

if TYPE_CHECKING:
    from w2v.inference.recording import Recording
    from w2v.inference.transcriber import Transcriber

FAILED = 1  # exit code where a recording could not be transcribed
OF_ONE_FILE = ("srt", "vtt", "textgrid", "tsv")


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
    if flags.labels.is_on:
        from w2v_cli.transcribe_labels import label_recordings

        return label_recordings(flags, jobs)
    folder = _folder(flags, jobs)
    check_named_files(flags.what, flags.decoder)
    # torch is imported from here on: what is wrong with the flags is said at once.
    from w2v_cli.transcribe_run import Progress, open_run

    with open_run(flags.what, flags.how, flags.decoder) as (transcriber, decode, shard):
        if shard.count > 1 and folder is None:
            raise ConfigError(f"{shard.count} processes need --output-dir: their lines would mix on stdout")
        mine = shard.take(jobs)
        waiting = [job for job in mine if folder is None or not folder.is_done(job.output)]
        output = Output(flags, folder)
        recordings = _recordings(flags, waiting, transcriber)
        with Progress(flags.what, waiting, num_kept=len(mine) - len(waiting)) as progress:
            results = transcriber.transcripts(
                recordings, progress.watch(decode, transcriber.info.sample_rate), output.heard
            )
            for job, result in zip(waiting, results, strict=True):
                failed = output.take(job, result)
                progress.done(job, result, failed)
            return FAILED if progress.num_failed else 0


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
            if self.flags.what.picture is not None:
                picture = self.folder.folder / f"{job.output}.png"
                write_picture(picture, job.path, transcript, self.flags.what.picture)
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
