"""Which recordings are transcribed, and what the files are called that come of them. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from w2v.data.media_file import ENDINGS as MEDIA_ENDINGS
from w2v.errors import ConfigError, DataError
from w2v.files.atomic import write_atomically
from w2v.inference.result import ENDINGS, Transcript, render
from w2v.inference.subtitles import SubtitleStyle

STANDARD_INPUT = "-"
AUDIO_ENDINGS = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
    ".sph", ".nist", ".voc", *MEDIA_ENDINGS,
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One recording.

    Attributes:
        path: the file, or `-`.
        output: what its transcripts are called in the output folder, without their ending.
    """

    path: str
    output: str


def find_jobs(inputs: Sequence[str], endings: Sequence[str] = ()) -> list[Job]:
    """Return the recordings that files and folders name, in the order given; those of a folder by name.

    Args:
        inputs: files, folders (searched to any depth), or `-`.
        endings: of the files in folders, such as `wav`; (): all that hold sound.

    Raises:
        ConfigError: there are none, or two of them would be written to one file.
    """
    wanted = tuple(f".{ending.lower().lstrip('.')}" for ending in endings) or AUDIO_ENDINGS
    found: list[tuple[str, str]] = []  # the file, and its name below the output folder
    for given in inputs:
        if given != STANDARD_INPUT and os.path.isdir(given):
            below = sorted(name for name in _files(given) if name.lower().endswith(wanted))
            if not below:
                raise ConfigError(f"{given}: no file with the ending {', '.join(wanted)} in this folder")
            found += [(os.path.join(given, name), name) for name in below]
        else:
            found.append((given, "stdin.wav" if given == STANDARD_INPUT else PurePath(given).name))
    if not found:
        raise ConfigError("w2v-transcribe: name at least one audio file or folder, or - for standard input")
    return _named(found)


def _named(found: list[tuple[str, str]]) -> list[Job]:
    """Give each recording its stem or, where two share one, its whole name."""
    stems: dict[str, int] = {}
    for _, name in found:
        stem = os.path.splitext(name)[0]
        stems[stem] = stems.get(stem, 0) + 1
    jobs: list[Job] = []
    taken: dict[str, str] = {}
    for path, name in found:
        stem = os.path.splitext(name)[0]
        output = stem if stems[stem] == 1 else name
        if output in taken:
            raise ConfigError(
                f"{taken[output]} and {path} would both be written to {output}; transcribe them into folders of "
                "their own, or name the folder above both"
            )
        taken[output] = path
        jobs.append(Job(path, output))
    return jobs


def _files(folder: str) -> Iterator[str]:
    """Yield the files below a folder, hidden ones left out, by their paths relative to it."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = os.path.relpath(where, folder)
        for name in names:
            if not name.startswith("."):
                yield name if prefix == "." else os.path.join(prefix, name)


@dataclass(frozen=True)
class TranscriptFolder:
    """Where transcripts are written, in one file per format; a file that is there is whole.

    Attributes:
        folder: the folder.
        formats: names of `result.FORMATS`.
        style: of subtitles.
    """

    folder: Path
    formats: tuple[str, ...]
    style: SubtitleStyle

    def paths(self, job: Job) -> dict[str, Path]:
        """Return format -> file."""
        return {name: self.folder / f"{job.output}.{ENDINGS[name]}" for name in self.formats}

    def is_done(self, job: Job) -> bool:
        """Return whether all files of a recording are there."""
        return all(path.is_file() for path in self.paths(job).values())

    def write(self, job: Job, transcript: Transcript, *, overwrite: bool) -> None:
        """Write the files of a recording, each whole or not at all; those that are there are kept unless `overwrite`.

        Raises:
            DataError: a file cannot be written.
        """
        for name, path in self.paths(job).items():
            if overwrite or not path.is_file():
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as e:
                    raise DataError(f"--output-dir: cannot make {path.parent}: {e.strerror or e}") from e
                text = render(transcript, name, self.style)
                write_atomically(path, text.encode("utf-8", errors="surrogateescape"))
