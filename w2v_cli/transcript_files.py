"""The files in which transcripts are left: one per recording and format, whole or not at all, kept by the next run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from w2v.errors import ConfigError
from w2v.files import make_folder, write_atomically
from w2v.inference.result import ENDINGS, Transcript, render
from w2v.inference.subtitles import SubtitleStyle


@dataclass(frozen=True)
class TranscriptFiles:
    """Where transcripts go.

    Attributes:
        folder: their folder.
        formats: of `result.FORMATS`.
        style: of subtitles.
        overwrite: write files anew that are there.
        with_chars: whether TextGrids have a tier of characters.

    Raises:
        DataError: the folder cannot be made.
    """

    folder: Path
    formats: Sequence[str]
    style: SubtitleStyle = field(default_factory=SubtitleStyle)
    overwrite: bool = False
    with_chars: bool = False

    def __post_init__(self) -> None:
        # Before hours of audio are transcribed for it.
        make_folder(self.folder, "--output-dir")

    def is_done(self, stem: str) -> bool:
        """Whether all files of a recording are there, and are to be kept."""
        return not self.overwrite and all(path.is_file() for path in self.paths(stem))

    def paths(self, stem: str) -> list[Path]:
        """Return the files of a recording."""
        return [self._path(stem, name) for name in self.formats]

    def write(self, stem: str, transcript: Transcript) -> None:
        """Write the files of a recording; one that is there is kept unless `overwrite`.

        Raises:
            DataError: one cannot be written.
        """
        for name in self.formats:
            if self._path(stem, name).is_file() and not self.overwrite:
                continue
            if name == "json":
                self.write_text(stem, name, *transcript.json_parts())
            elif name == "textgrid":
                self.write_text(stem, name, transcript.textgrid(with_chars=self.with_chars))
            else:
                self.write_text(stem, name, render(transcript, name, self.style))

    def write_text(self, stem: str, name: str, *parts: str) -> None:
        """Write one file of a recording, whether it is there or not.

        Args:
            stem: what the files of the recording are called.
            name: its format.
            parts: its text, in pieces.

        Raises:
            DataError: it cannot be written.
        """
        path = self._path(stem, name)
        make_folder(path.parent)
        write_atomically(path, (part.encode("utf-8", "surrogateescape") for part in parts))

    def _path(self, stem: str, name: str) -> Path:
        return self.folder / f"{stem}.{ENDINGS[name]}"


def stems_of(names: Sequence[str]) -> list[str]:
    """Return what the files of each recording are called: its relative name without its ending, where that is enough.

    Raises:
        ConfigError: two recordings have the same name.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice: its results would overwrite each other")
    bare = [os.path.splitext(name)[0] for name in names]
    counts = Counter(bare)
    # `talk.wav` beside `talk.mp3`: their endings tell them apart, unless something else is called so.
    stems = [stem if counts[stem] == 1 else name for stem, name in zip(bare, names, strict=True)]
    clashes = [stem for stem, count in Counter(stems).items() if count > 1]
    if clashes:
        raise ConfigError(f"the results of two recordings would both be called {clashes[0]}; rename one")
    return stems
