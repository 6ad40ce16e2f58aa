"""Audio that libsndfile does not read, through FFmpeg's libraries: M4A (AAC, ALAC), MP4, MKV, WebM, WMA, AC-3, AMR.

PyAV brings FFmpeg inside its wheel (extra `media`). Nothing is mixed or resampled here, so that these files go through
the same code as all others; see `audio`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.errors import DataError, MissingPackageError

Samples = npt.NDArray[np.float32]

# FFmpeg's names of containers that hold their own sound. A play list is none: it would open other files and addresses.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,aac,ac3,eac3,dts,truehd,amr,amrnb,amrwb,mp3,ogg,flac,wav,w64,aiff,au,"
    "caf,ape,wv,tta,tak,shn,mpc,mpc8,flv,avi,mpegts,mpeg,rm,voc,dsf,spx,sox,loas,latm"
)
ENDINGS = (
    "m4a", "m4b", "mp4", "m4v", "mov", "3gp", "aac", "mkv", "mka", "webm", "wma", "wmv", "asf", "ac3", "amr", "opus",
    "ape", "wv", "tta", "flv", "avi", "ts", "mpg", "mpeg",
)  # fmt: skip
LONGEST_PADDING = 4096  # samples: encoders fill up their last frame, and an MP4 says how much of it is sound


class MediaFile:
    """An open file; `media_file` opens it.

    Attributes:
        sample_rate: in Hz, of the decoded sound: a header knows only half the rate of HE-AAC.
        channels: number of channels.
    """

    def __init__(self, container: Any) -> None:
        self._stream = container.streams.audio[0]
        self._decoded = _frames(container, self._stream)
        self._first = next(self._decoded, None)
        context = self._stream.codec_context
        frame = self._first
        self.sample_rate = int(frame.sample_rate if frame is not None else context.sample_rate or 0)
        self.channels = int(frame.layout.nb_channels if frame is not None else context.layout.nb_channels)
        self.frames = self._told() if "mov" in container.format.name.split(",") else None

    frames: int | None
    """Samples per channel, where the header tells them exactly (MP4 and its kin)."""

    def _told(self) -> int | None:
        if not self._stream.duration or self._stream.time_base is None:
            return None  # a fragmented file
        seconds = float(self._stream.duration * self._stream.time_base)
        return round(seconds * self.sample_rate)

    def blocks(self) -> Iterator[Samples]:
        """Yield (S, channels) blocks of samples until the file ends, without the padding of its encoder."""
        import av

        # All formats of samples become float32; rate and channels stay.
        convert: Any = None
        done = 0
        held: list[Samples] = []
        frame = self._first
        while frame is not None:
            if convert is None:
                convert = av.AudioResampler(format="fltp", layout=frame.layout.name, rate=frame.sample_rate)
            for part in convert.resample(frame):
                block: Samples = part.to_ndarray().T
                done += len(block)
                if self.frames is None or done <= self.frames:
                    yield block
                else:
                    held.append(block)  # padding, or the header is wrong: the end of the file tells
            frame = next(self._decoded, None)
        if held:
            rest = np.concatenate(held)
            padding = done - (self.frames or 0)
            yield rest[: len(rest) - padding] if padding <= LONGEST_PADDING else rest

    def count(self) -> int:
        """Return the samples per channel by decoding all; the file is at its end afterwards."""
        return sum(map(len, self.blocks()))


@contextmanager
def media_file(file: io.BufferedReader, path: str) -> Iterator[MediaFile]:
    """Open a file with PyAV.

    Args:
        file: open for reading.
        path: its name, for messages.

    Raises:
        DataError: FFmpeg cannot read it either, or it holds no sound.
        MissingPackageError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as e:
        raise MissingPackageError("av", "media", f"{path}: reading this format") from e
    try:
        with av.open(file, options={"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}) as container:
            if not container.streams.audio:
                raise DataError(f"{path}: holds no audio")
            yield MediaFile(container)
    except av.FFmpegError as e:
        raise DataError(f"{path}: not readable as audio: {' '.join(str(e.strerror or e).split())}") from e
    except (ValueError, RuntimeError, MemoryError) as e:
        raise DataError(f"{path}: not readable as audio: {' '.join(str(e).split()) or 'out of memory'}") from e


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    for frame in container.decode(stream):
        if frame.samples:
            yield frame
