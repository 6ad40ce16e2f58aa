"""What is transcribed or aligned: a file, samples in memory, or a pipe, all read in blocks at the model's rate."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from w2v.data.audio import audio_blocks, audio_seconds, resampled
from w2v.data.pcm import PcmDecoder, PcmFormat, byte_blocks, read_wav_header
from w2v.errors import DataError
from w2v.shards.member import Source

Samples = npt.NDArray[np.float32]
STANDARD_INPUT = "-"


class Recording(Protocol):
    """Sound that can be read from its beginning, more than once.

    Attributes:
        name: what it is called in results and messages.
    """

    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float | None:
        """How long it is, where that is known without reading it."""
        ...

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        """Yield (S,) blocks of the mean of all channels at a sample rate.

        Raises:
            DataError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class FileRecording:
    """An audio file of any format, rate and number of channels."""

    path: Source

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def seconds(self) -> float | None:
        return audio_seconds(self.path)

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        num_samples = 0
        for block in audio_blocks(self.path, sample_rate):
            num_samples += len(block)
            yield block
        if not num_samples:
            raise DataError(f"{self.path}: holds no samples")


@dataclass(frozen=True)
class ArrayRecording:
    """Samples in memory.

    Attributes:
        samples: (S,) or (channels, S) in [-1, 1].
        sample_rate: in Hz.
        name: what it is called.
    """

    samples: Samples
    sample_rate: int
    name: str = ""

    @property
    def seconds(self) -> float | None:
        return float(self.samples.shape[-1] / self.sample_rate)

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        size = 1 << 20
        starts = range(0, self.samples.shape[-1], size)
        parts = (self.samples[..., start : start + size] for start in starts)
        mono = (part if part.ndim == 1 else part.mean(axis=0, dtype=np.float32) for part in parts)
        name = self.name or "samples"
        return iter(mono) if sample_rate == self.sample_rate else resampled(name, mono, self.sample_rate, sample_rate)


def samples_of(values: Any, name: str = "samples") -> Samples:
    """Return what a caller gave as samples (numpy array, torch tensor or list) as float32.

    Whole numbers of 16 or 32 bits are brought to [-1, 1].

    Raises:
        DataError: it is not (S,) or (channels, S), or holds NaN or infinite values.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise DataError(f"{name}: need numbers (S,) or (channels, S), got shape {array.shape} of {array.dtype}")
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise DataError(f"{name}: need (channels, S), got {array.shape}; transpose it")
    scale = 2.0 ** (1 - 8 * array.dtype.itemsize) if array.dtype.kind == "i" else 1.0
    samples: Samples = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind == "i":
        samples = samples * np.float32(scale)
    if not np.isfinite(samples).all():
        raise DataError(f"{name}: holds NaN or infinite samples")
    return samples


class PipeRecording:
    """Sound from a pipe: a WAV file, or raw samples.

    What was read is kept in a temporary file, so that a model that needs mean and variance of the whole can read it
    again; where it is read once only (`keep` is false) it passes through.

    Args:
        stream: the pipe.
        format: of raw samples; None: the pipe begins with the header of a WAV file.
        keep: whether it may be read again.

    Raises:
        DataError: there is no such header.
    """

    def __init__(self, stream: BinaryIO, format: PcmFormat | None = None, *, keep: bool) -> None:
        self.name = STANDARD_INPUT
        self.seconds = None
        self._stream = stream
        self._format, self._size = (format, None) if format is not None else read_wav_header(stream)
        self._kept: BinaryIO | None = None
        self._keep = keep

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        decoder = PcmDecoder(self._format)
        mono = (decoder.push(data) for data in self._bytes())
        finite = _finite(mono, self.name)
        rate = self._format.sample_rate
        return finite if rate == sample_rate else resampled(self.name, finite, rate, sample_rate)

    def _bytes(self) -> Iterator[bytes]:
        if self._kept is not None:
            self._kept.seek(0)
            yield from byte_blocks(self._kept, None, 1 << 20)
            return
        if self._keep:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - gone with this object
        for data in byte_blocks(self._stream, self._size):
            if self._kept is not None:
                self._kept.write(data)
            yield data


def read_recording(recording: Recording, sample_rate: int) -> Samples:
    """Return a whole recording (S,) at a sample rate, the mean of its channels.

    Raises:
        DataError: it cannot be read.
    """
    parts = list(recording.blocks(sample_rate))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16000) -> Samples:
    """Return an audio file of any format, rate and number of channels as samples (S,) in [-1, 1].

    Args:
        path: whatever libsndfile reads, and M4A, MP4, WebM and their kin with the extra `media`.
        sample_rate: to which it is resampled, in Hz.

    Raises:
        DataError: the file cannot be read.
    """
    return read_recording(FileRecording(os.fspath(path)), sample_rate)


def _finite(blocks: Iterable[Samples], name: str) -> Iterator[Samples]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise DataError(f"{name}: holds NaN or infinite samples")
        yield block


def recording_of(source: Any, sample_rate: int | None = None, name: str = "") -> Recording:
    """Return what a caller names: a path, or samples with their rate.

    Raises:
        DataError: samples come without their rate, or are none.
    """
    if isinstance(source, (str, os.PathLike)):
        return FileRecording(str(Path(source)))
    if sample_rate is None:
        raise DataError("samples need their sample_rate, such as w2v.transcribe(samples, 16000, model=...)")
    return ArrayRecording(samples_of(source, name or "samples"), sample_rate, name)
