"""What `w2v-live` writes: text for people, lines of JSON for programs, the transcript of the session, and figures."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np

from w2v.errors import ConfigError, DataError
from w2v.inference.growing_transcript import GrowingTranscript
from w2v_cli.live_flags import PROGRAM, LiveFlags
from w2v_cli.recordings import STANDARD_INPUT
from w2v_cli.transcript_files import TranscriptFiles

if TYPE_CHECKING:
    from w2v.inference.live import LiveEvent

CLEAR_LINE, DIM, PLAIN = "\r\x1b[K", "\x1b[2m", "\x1b[0m"


class Writer(Protocol):
    """Takes events in their order."""

    def take(self, event: LiveEvent) -> None: ...


class JsonLines:
    """Every event as a line of JSON, at once."""

    def take(self, event: LiveEvent) -> None:
        print(json.dumps(event.json(), ensure_ascii=False, allow_nan=False), flush=True)


class TextLines:
    """For every utterance a line: its duration, the time that decoding took, its text.

    On a terminal the line is there while the utterance is spoken, its tentative words dimmed.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._is_terminal = stream.isatty()

    def take(self, event: LiveEvent) -> None:
        if event.kind == "partial" and self._is_terminal:
            self._write(CLEAR_LINE + self._shown(event))
        elif event.kind == "final":
            start = CLEAR_LINE if self._is_terminal else ""
            if event.text:
                times = f"{event.end - event.start:.3f}s\t{event.decode_seconds:.3f}s"
                self._write(f"{start}{times}\t{event.text}\n")
            elif start:
                self._write(start)

    def _shown(self, event: LiveEvent) -> str:
        """Return the end of a partial that fits the line: confirmed words, then the tentative ones."""
        width = max(shutil.get_terminal_size().columns - 1, 1)
        hidden = max(len(event.text) - width, 0)
        sure = event.text[hidden : max(len(event.confirmed), hidden)]
        tentative = event.text[hidden + len(sure) :]
        return f"{sure}{tentative}" if "NO_COLOR" in os.environ else f"{sure}{DIM}{tentative}{PLAIN}"

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class SessionFiles:
    """The transcript of a session, written anew after every utterance: a kill leaves all that was final before it.

    Args:
        flags: where, and in which formats.
        source: what is heard, which names the files.

    Raises:
        ConfigError: a file of that name is there.
    """

    def __init__(self, flags: LiveFlags, source: str) -> None:
        assert flags.output_dir is not None
        self.num_failed = 0
        self.transcript: GrowingTranscript | None = None
        self._files = TranscriptFiles(Path(flags.output_dir), flags.output_format)
        is_file = flags.source not in (None, STANDARD_INPUT)
        self._stem = PurePath(source).stem if is_file else time.strftime("live-%Y-%m-%d-%H%M%S")
        there = [path for path in self._files.paths(self._stem) if path.exists()]
        if there and not flags.overwrite:
            raise ConfigError(f"{there[0]} is there already; give --overwrite to replace it, or another --output-dir")

    def take(self, event: LiveEvent) -> None:
        """Write the transcript up to a final; a full disk is a line, and the next final tries again."""
        if event.kind not in ("final", "end") or self.transcript is None:
            return
        self.transcript.add(event.segments)
        try:
            for name in self._files.formats:
                self._files.write_text(self._stem, name, self.transcript.render(name, round(event.end, 3)))
        except DataError as e:
            self.num_failed += 1
            print(f"{PROGRAM}: {e}", file=sys.stderr, flush=True)
        else:
            self.num_failed = 0


class Figures:
    """Counts what is told at the end, and says at once what was dropped."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._latencies: list[float] = []
        self._decoding = 0.0

    def take(self, event: LiveEvent) -> None:
        if event.kind == "final" and event.latency is not None:
            self._latencies.append(event.latency)
            self._decoding += event.decode_seconds
        elif event.kind == "dropped":
            self._say(
                f"{event.dropped_seconds:.2f} s of audio from {event.start:.2f} s on were dropped: "
                "transcribing is slower than speech here"
            )
        elif event.kind == "end" and not self._quiet:
            median, worst = (np.percentile(self._latencies, part) for part in (50, 95)) if self._latencies else (0, 0)
            self._say(
                f"{event.utterance} utterances in {event.end:.1f} s; decoding took {self._decoding:.2f} s; "
                f"text came {median:.2f} s after speech (median; 95th percentile {worst:.2f} s); "
                f"{event.dropped_seconds:.1f} s dropped"
            )

    def _say(self, line: str) -> None:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
