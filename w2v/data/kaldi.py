"""Kaldi's data directories: recordings in `wav.scp`, stretches of them in `segments`, texts in `text`.

`wav.scp` may hold commands whose output is the audio. They are refused: no file of data runs anything here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from w2v.data.manifest import stretch_name
from w2v.data.text_file import id_and_value, read_lines
from w2v.errors import DataError, listed

RECORDINGS = "wav.scp"
SEGMENTS = "segments"
TEXTS = "text"
OVERSHOOT = 0.5  # seconds that the last stretch may end behind its recording, as in Kaldi


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording.

    Attributes:
        name: id of the utterance.
        recording: id of the recording.
        start: in seconds.
        end: in seconds; None: the end of the recording.
        where: `file:line`.
    """

    name: str
    recording: str
    start: float
    end: float | None
    where: str

    def samples(self, frames: int, sample_rate: int, title: str) -> tuple[int, int]:
        """Return its first sample, and how many there are.

        Args:
            frames: samples of the recording.
            sample_rate: of the recording, in Hz.
            title: what the recording is called in messages.

        Raises:
            DataError: it begins behind the end, or ends more than `OVERSHOOT` behind it.
        """
        seconds = frames / sample_rate
        first = round(self.start * sample_rate)
        last = frames if self.end is None else min(round(self.end * sample_rate), frames)
        if first >= last:
            raise DataError(f"{self.where}: begins at {self.start:g} s, behind the end of {title} ({seconds:.3f} s)")
        if self.end is not None and self.end > seconds + OVERSHOOT:
            raise DataError(
                f"{self.where}: ends at {self.end:g} s, behind the end of {title} ({seconds:.3f} s); are its times in "
                "seconds, and of this recording?"
            )
        return first, last - first

    def clip(self, name: str, frames: int, sample_rate: int, size: int) -> tuple[str, int]:
        """Return the name of its clip in a manifest, and its samples there.

        Args:
            name: of the recording in the manifest.
            frames, sample_rate: of the recording's file, in which offsets count.
            size: samples of the recording in training, at whose rate sizes of a manifest count.

        Raises:
            DataError: as `samples` does.
        """
        first, count = self.samples(frames, sample_rate, name)
        return stretch_name(name, first, count), count * size // frames


@dataclass(frozen=True)
class KaldiFolder:
    """What is to be read of a data directory; speakers (`utt2spk`) have no use here.

    Attributes:
        path: the directory.
        recordings: id -> absolute path, in the order of `wav.scp`.
        segments: stretches of them by path; None: each recording is an utterance.
    """

    path: str
    recordings: Mapping[str, str]
    segments: Mapping[str, list[Segment]] | None

    @property
    def texts(self) -> str:
        """The file of texts, which need not be there."""
        return os.path.join(self.path, TEXTS)

    def notes(self) -> list[str]:
        """Return what is to be said of it."""
        missing = [path for path in self.recordings.values() if not os.path.exists(path)]
        found = f"{self.path}: Kaldi's data directory: {len(self.recordings)} recordings"
        if self.segments is not None:
            found += f", {sum(map(len, self.segments.values()))} segments"
            bare = [name for name, path in self.recordings.items() if path not in self.segments]
            found += f"; {len(bare)} recordings without a segment: {listed(bare)}" if bare else ""
        if not missing:
            return [found]
        return [
            found,
            f"{len(missing)} files of {RECORDINGS} do not exist: {listed(missing, 2)}; relative paths are looked for "
            f"in the current folder and in {self.path}",
        ]


def find_kaldi(path: str) -> str | None:
    """Return the data directory that a path names (itself, or by its `wav.scp`); None: it is none."""
    if os.path.basename(path) == RECORDINGS and os.path.isfile(path):
        return os.path.dirname(path) or "."
    return path if os.path.isfile(os.path.join(path, RECORDINGS)) else None


def read_kaldi(folder: str) -> KaldiFolder:
    """Read the recordings of a data directory, and their segments.

    Raises:
        DataError: a line is a command, or breaks the form; named as file:line.
    """
    recordings = _read_recordings(folder)
    path = os.path.join(folder, SEGMENTS)
    if not os.path.exists(path):
        return KaldiFolder(folder, recordings, None)
    segments: dict[str, list[Segment]] = {}
    for segment in read_segments(path):
        if segment.recording not in recordings:
            raise DataError(f"{segment.where}: no recording of {RECORDINGS} is called {segment.recording!r}")
        segments.setdefault(recordings[segment.recording], []).append(segment)
    return KaldiFolder(folder, recordings, segments)


def _read_recordings(folder: str) -> dict[str, str]:
    path = os.path.join(folder, RECORDINGS)
    found: dict[str, str] = {}
    places: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, f"Kaldi's {RECORDINGS}"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        name, value = id_and_value(line)
        file = _audio_path(value.strip(), folder, where, line)
        for key, what in ((name, "the recording"), (file, "the file")):
            if key in places:
                raise DataError(f"{where}: {what} {key!r} is in {places[key]} already")
            places[key] = where
        found[name] = file
    if not found:
        raise DataError(f"{path}: holds no recordings")
    return found


def _audio_path(value: str, folder: str, where: str, line: str) -> str:
    """Return the absolute path of the file that a line names."""
    if value.endswith("|") or value.startswith("|"):
        raise DataError(
            f"{where}: {value[:200]!r} is a command, and none is run from a file of data; name the audio file itself "
            "(FLAC, SPH, MP3 and others are read as they are), or write the command's output to a file and name that"
        )
    if not value:
        raise DataError(f"{where}: must be a recording's id and the path of its audio, got {line[:200]!r}")
    archive, _, offset = value.rpartition(":")
    if offset.isdigit() and not os.path.exists(value):
        raise DataError(
            f"{where}: {value[:200]!r} leads into Kaldi's archive {archive}, which is not read here; copy its clips to "
            "WAV files (wav-copy), and name those"
        )
    # Paths in Kaldi count from where its scripts are started.
    beside = os.path.join(folder, value)
    return os.path.abspath(beside if not os.path.exists(value) and os.path.exists(beside) else value)


def read_segments(path: str | Path) -> list[Segment]:
    """Read Kaldi's `segments`: lines of utterance, recording, start and end in seconds (-1: to the end).

    Raises:
        DataError: the file cannot be read or is empty, or a line is something else; named as file:line.
    """
    segments: list[Segment] = []
    places: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "file of segments"), start=1):
        cells = line.split()
        if not cells:
            continue
        where = f"{path}:{number}"
        try:
            name, recording, first, last = cells
            start, end = float(first), float(last)
        except ValueError as e:
            more = "; channels (a fifth column) are not read: list each channel as a file" if len(cells) == 5 else ""
            raise DataError(
                f"{where}: must be utterance, recording, start and end in seconds, got {line!r}{more}"
            ) from e
        if not 0 <= start < (end if end != -1 else math.inf) or end == math.inf:
            raise DataError(f"{where}: must start at 0 or later and end after that, got {first} and {last}")
        if name in places:
            raise DataError(f"{where}: the utterance {name!r} is in {places[name]} already")
        places[name] = where
        segments.append(Segment(name, recording, start, None if end == -1 else end, where))
    if not segments:
        raise DataError(f"{path}: holds no segments")
    return segments
