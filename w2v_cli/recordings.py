"""Which recordings a command names, and what the files are called that come of each. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from w2v.data.audio_files import AUDIO_ENDINGS
from w2v.data.folder import names_below
from w2v.data.manifest import read_manifest
from w2v.errors import ConfigError
from w2v.shards.member import Source
from w2v_cli.transcript_files import stems_of

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Job:
    """One recording.

    Attributes:
        path: the file, a clip inside of a shard, or `-`.
        output: what its transcripts are called in the output folder, without their ending.
    """

    path: Source
    output: str


def find_jobs(inputs: Sequence[str], endings: Sequence[str] = ()) -> list[Job]:
    """Return the recordings that files and folders name, in the order given; those of a folder by name.

    Args:
        inputs: files, folders (searched to any depth), manifests (`.tsv`), or `-`.
        endings: of the files in folders, such as `wav`; (): all that hold sound.

    Raises:
        ConfigError: there are none, or two of them would be written to one file.
        DataError: a manifest cannot be read.
    """
    wanted = tuple(f".{ending.lower().lstrip('.')}" for ending in endings or AUDIO_ENDINGS)
    found: list[tuple[Source, str]] = []  # the file, and its name below the output folder
    for given in inputs:
        if given != STANDARD_INPUT and os.path.isdir(given):
            names = (name for name in names_below(given) if not os.path.basename(name).startswith("."))
            below = sorted(name for name in names if name.lower().endswith(wanted))
            if not below:
                raise ConfigError(f"{given}: no file with the ending {', '.join(wanted)} in this folder")
            found += [(os.path.join(given, name), name) for name in below]
        elif given.endswith((".tsv", ".tsv.gz")):
            manifest = read_manifest(given)
            found += [(manifest.source_of(row), manifest.title(row)) for row in range(len(manifest))]
        else:
            found.append((given, "stdin.wav" if given == STANDARD_INPUT else PurePath(given).name))
    if not found:
        raise ConfigError("w2v-transcribe: name at least one audio file or folder, or - for standard input")
    return [Job(path, stem) for (path, _), stem in zip(found, stems_of([name for _, name in found]), strict=True)]
