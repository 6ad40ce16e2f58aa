"""The audio files of a folder, as a manifest that was never written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from w2v.data.audio import audio_info
from w2v.data.audio_files import AUDIO_ENDINGS
from w2v.data.manifest import Manifest, make_manifest
from w2v.errors import DataError

HEADERS_AT_ONCE = 4  # threads


def list_folder(folder: Path, extensions: Sequence[str] | None, sample_rate: int, *, recursive: bool) -> Manifest:
    """Find the audio files of a folder, in the order of their names, and read their headers.

    Args:
        folder: where to look; hidden folders are left out.
        extensions: what a name may end in, without the dot; case does not matter. None: all kinds of audio.
        sample_rate: sizes are given at this rate, in Hz.
        recursive: look into folders inside the folder.

    Returns:
        A manifest whose root is `folder`. A file whose header cannot be read has size 0: who reads it learns why.

    Raises:
        DataError: the folder does not exist or holds no such file.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    endings = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions or AUDIO_ENDINGS)
    names = sorted(name for name in names_below(folder, recursive=recursive) if name.lower().endswith(endings))
    if not names:
        kind = f"file with the ending {' or '.join(endings)}" if extensions else "audio file"
        raise DataError(f"{folder}: holds no {kind}")

    def size(name: str) -> int:
        try:
            return max(audio_info(os.path.join(folder, name)).frames_at(sample_rate), 0)
        except DataError:
            return 0

    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        sizes = list(pool.map(size, names))
    return make_manifest(str(folder), names, sizes, str(folder))


def names_below(folder: str | Path, *, recursive: bool = True) -> Iterator[str]:
    """Yield the files of a folder by their paths relative to it; hidden folders are left out, links are followed."""
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        prefix = os.path.relpath(where, folder)
        yield from files if prefix == "." else (os.path.join(prefix, name) for name in files)
