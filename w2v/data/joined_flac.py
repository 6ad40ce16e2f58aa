"""FLAC files joined by `cat`, read part by part: FFmpeg drops a frame of the sound where some of them meet."""

from __future__ import annotations

import io
import itertools
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.errors import DataError

Content = mmap.mmap | bytes
BEGINNINGS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # the marker, and the head of the first block behind it
UNKNOWN_LENGTH = 1 << 60
"""Samples from which on libsndfile means that nobody has told how many there are."""


def next_beginning(content: Content, start: int) -> int:
    """Return the place of the first FLAC file that begins at `start` or later; -1: there is none."""
    return min((place for begin in BEGINNINGS if (place := content.find(begin, start)) >= 0), default=-1)


@dataclass(frozen=True)
class JoinedFlac:
    """Several FLAC files in one.

    Attributes:
        content: of the file.
        places: where each part begins, and the end.
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel of all parts.
    """

    content: Content
    places: tuple[int, ...]
    sample_rate: int
    channels: int
    frames: int

    @staticmethod
    def of(content: Content, name: str) -> JoinedFlac | None:
        """Find the parts of a file; None: there is only one.

        Args:
            content: of the file.
            name: of the file, for messages.

        Raises:
            DataError: the parts differ in rate or channels, or one does not tell its length.
            soundfile.LibsndfileError: one cannot be read.
        """
        places = [0]  # titles in front of the first part belong to it
        place = next_beginning(content, 0)
        while place >= 0 and (place := next_beginning(content, place + 4)) >= 0:
            places.append(place)
        if len(places) == 1:
            return None
        places.append(len(content))
        forms, frames = [], 0
        for part in _parts(content, places):
            forms.append((part.samplerate, part.channels))
            frames += part.frames
        if len(set(forms)) > 1:
            found = " and ".join(f"{rate} Hz with {channels} channels" for rate, channels in sorted(set(forms)))
            raise DataError(f"{name}: is joined of FLAC files of {found}; take them apart")
        if frames >= UNKNOWN_LENGTH:
            raise DataError(f"{name}: is joined of FLAC files, one of which does not tell its length; re-encode it")
        return JoinedFlac(content, tuple(places), *forms[0], frames)

    def blocks(self, size: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield (S,) or (S, channels) blocks of `size` values, fewer at the end of a part."""
        for part in _parts(self.content, self.places):
            at_once = max(1, size // part.channels)
            while len(block := part.read(at_once, dtype="float32")):
                yield block


def _parts(content: Content, places: Sequence[int]) -> Iterator[Any]:
    """Open one part after the other."""
    import soundfile

    for start, end in itertools.pairwise(places):
        with soundfile.SoundFile(io.BytesIO(content[start:end])) as part:
            yield part
