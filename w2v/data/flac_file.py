"""Clips that are cut out of recordings, written as files of their own."""

from __future__ import annotations

from pathlib import Path

from w2v.data.audio import Samples
from w2v.files.atomic import atomic_path


def write_flac(path: Path, samples: Samples, sample_rate: int) -> None:
    """Write (S,) samples in [-1, 1] as 16-bit FLAC, whole or not at all; folders above it are made.

    Raises:
        OSError: the folder is not writable, or the disk is full.
    """
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened here: soundfile takes no name that is not valid in the locale.
    with atomic_path(path) as part, open(part, "wb") as file:
        try:
            soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
        except soundfile.LibsndfileError as e:
            raise OSError(None, e.error_string) from e
