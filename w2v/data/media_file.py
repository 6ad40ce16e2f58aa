"""Audio that libsndfile does not read, through FFmpeg's libraries: M4A (AAC, ALAC), MP4, MKV, WebM, WMA, AC-3, AMR.

PyAV brings FFmpeg inside its wheel (extra `media`). Nothing is mixed or resampled here, so that these files go through
the same code as all others; see `audio`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.data.guessed_length import begins_again
from w2v.errors import DataError

Samples = npt.NDArray[np.float32]
ByteFile = io.BytesIO | io.RawIOBase

# FFmpeg's names of containers that hold their own sound. A play list is none: it would open other files and addresses.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,aac,ac3,eac3,dts,truehd,amr,amrnb,amrwb,mp3,ogg,flac,wav,w64,aiff,au,"
    "caf,ape,wv,tta,tak,shn,mpc,mpc8,flv,avi,mpegts,mpeg,rm,voc,dsf,spx,sox,loas,latm"
)
LONGEST_PADDING = 4096  # samples: encoders fill up their last frame, and an MP4 says how much of it is sound


class MediaFile:
    """An open file; `media_file` opens it.

    Attributes:
        sample_rate: in Hz, of the decoded sound: a header knows only half the rate of HE-AAC.
        channels: number of channels.
    """

    def __init__(self, container: Any, path: str) -> None:
        if not container.streams.audio:
            raise DataError(f"{path}: holds no audio")
        self._stream = container.streams.audio[0]
        self._decoded = _frames(container, self._stream)
        self._first = next(self._decoded, None)
        if self._first is None:
            raise DataError(f"{path}: holds no sound that can be decoded")
        self.sample_rate = int(self._first.sample_rate)
        self.channels = int(self._first.layout.nb_channels)
        self.frames = self._told() if "mov" in container.format.name.split(",") else None

    frames: int | None
    """Samples per channel, where the header tells them exactly (MP4 and its kin)."""

    def _told(self) -> int | None:
        if not self._stream.duration or self._stream.time_base is None:
            return None  # a fragmented file
        seconds = float(self._stream.duration * self._stream.time_base)
        return round(seconds * self.sample_rate)

    def blocks(self, size: int) -> Iterator[Samples]:
        """Yield (S, channels) blocks of about `size` values until the file ends, without the encoder's padding."""
        held: list[Samples] = []
        done = num_held = 0
        for block in self._converted():
            held.append(block)
            done += len(block)
            num_held += len(block)
            # What lies beyond the length that the header tells waits for the end of the file.
            if num_held * self.channels >= size and (self.frames is None or done <= self.frames):
                yield np.concatenate(held)
                held, num_held = [], 0
        if held:
            rest = np.concatenate(held)
            padding = done - self.frames if self.frames is not None else 0
            # More than an encoder adds: the header is wrong, and everything is sound.
            yield rest[: len(rest) - padding] if 0 < padding <= LONGEST_PADDING else rest

    def _converted(self) -> Iterator[Samples]:
        """Yield (S, channels) float32 per frame, whatever the decoder's format of samples.

        The rate is that of the first frame: of joined files, the later ones are brought to it.
        """
        import av

        convert: Any = None
        form: Any = None
        frame: Any = self._first
        layout = frame.layout.name
        while frame is not None:
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if now != form:
                yield from _arrays(convert.resample(None) if convert is not None else ())
                convert = av.AudioResampler(format="fltp", layout=layout, rate=self.sample_rate)
                form = now
            yield from _arrays(convert.resample(frame))
            frame = next(self._decoded, None)
        yield from _arrays(convert.resample(None))


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the decoded frames of a stream. The titles of an MP3 file that others were joined to hold no sound."""
    is_mp3 = container.format.name == "mp3"
    for packet in container.demux(stream):
        if is_mp3 and bytes(memoryview(packet)[:8]).startswith(TITLES):
            continue
        for frame in packet.decode():
            if frame.samples:
                yield frame


def _arrays(parts: Any) -> Iterator[Samples]:
    for part in parts:
        yield part.to_ndarray().T


TITLES = (b"ID3", b"TAG", b"APETAGEX")
FIRST_ALONE = (b"0&\xb2u\x8ef\xcf\x11", b"FLV\x01", b"TTA1", b"MAC ")  # WMA, Flash, True Audio, Monkey's Audio


def _num_indexes(file: ByteFile) -> int:
    """Return how many indexes an MP4 file has, each of which stands for itself; 0 for other files."""
    place = count = 0
    while True:
        file.seek(place)
        head = file.read(16) or b""
        if len(head) < 8 or (not place and head[4:8] != b"ftyp"):
            break
        length = int.from_bytes(head[:4], "big")
        count += head[4:8] == b"moov"
        length = int.from_bytes(head[8:16], "big") if length == 1 else length
        if length < 8:  # up to the end of the file
            break
        place += length
    file.seek(0)
    return count


def _is_first_alone(file: ByteFile) -> bool:
    """Return whether another file begins within one of a kind of which FFmpeg reads the first alone."""
    file.seek(0)
    head = file.read(8) or b""
    again = head.startswith(FIRST_ALONE) and begins_again(file, len(head))
    file.seek(0)
    return again


def is_installed() -> bool:
    """Return whether PyAV is there; it is not imported."""
    return find_spec("av") is not None


@contextmanager
def media_file(file: ByteFile, path: str) -> Iterator[MediaFile]:
    """Open a file with PyAV.

    Args:
        file: open for reading.
        path: its name, for messages.

    Raises:
        DataError: FFmpeg cannot read it either, or it holds no sound.
    """
    import av

    try:
        if _num_indexes(file) > 1:
            raise DataError(
                f"{path}: is joined of several MP4 files, of which players see the first; join them with ffmpeg"
            )
        if _is_first_alone(file):
            raise DataError(
                f"{path}: is joined of several files, of which FFmpeg reads the first; join them with ffmpeg"
            )
        with av.open(file, options={"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}) as container:
            yield MediaFile(container, path)
    except av.error.PatchWelcomeError as e:  # an Ogg file joined to one of another rate, for instance
        raise DataError(
            f"{path}: cannot be decoded to its end: its rate or form changes within it; re-encode it"
        ) from e
    except av.FFmpegError as e:
        raise DataError(f"{path}: not readable as audio: {' '.join(str(e.strerror or e).split())}") from e
    except (OSError, ValueError, RuntimeError, MemoryError) as e:  # OSError: a damaged index leads to a place below 0
        raise DataError(f"{path}: not readable as audio: {' '.join(str(e).split()) or 'out of memory'}") from e
