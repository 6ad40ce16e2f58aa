"""Clips from audio files: FLAC, WAV, OGG, MP3 and whatever else libsndfile reads.

Every failure is a `DataError` that names the file and the reason in one line. A header is never trusted with memory:
a file is read in blocks until it ends. Cropping and batching are done by `dataset`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from w2v.errors import DataError, MissingPackageError

Samples = npt.NDArray[np.float32]

BLOCK = 1 << 22  # values read at once: 262 s of 16 kHz mono, so that an ordinary clip takes one read
UNKNOWN_LENGTH = 1 << 60
NORMALIZE_EPSILON = 1e-5


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel.
    """

    sample_rate: int
    channels: int
    frames: int

    def frames_at(self, sample_rate: int) -> int:
        """Return the number of samples that resampling to `sample_rate` gives."""
        return (2 * self.frames * sample_rate + self.sample_rate) // (2 * self.sample_rate)


def audio_info(path: str) -> AudioInfo:
    """Read a file's header.

    Raises:
        DataError: the file cannot be opened as audio, or does not say how long it is.
    """
    with _open(path) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames)


def read_audio(path: str, sample_rate: int, *, resample: bool = False) -> Samples:
    """Read a whole clip.

    Differs from the original: other sample rates can be resampled, and several channels are averaged only when
    asked (the original always averages them); samples that are not finite are refused.

    Args:
        path: the file.
        sample_rate: rate needed, in Hz.
        resample: bring other rates to `sample_rate` and average several channels, instead of refusing them.

    Returns:
        (S,) float32, nominally in [-1, 1]; empty where the file holds no samples.

    Raises:
        DataError: the file is unreadable, of another rate or not mono, or holds NaN or infinite samples.
        MissingPackageError: soxr is needed and not installed.
    """
    with _open(path) as file:
        rate, channels = file.samplerate, file.channels
        if not resample:
            check_format(path, rate, channels, sample_rate)
        samples = _read_blocks(file, channels)
    # One sum is cheaper than a mask of all samples; only a doubtful one is looked at closely.
    with np.errstate(all="ignore"):
        doubtful = not np.isfinite(samples.sum())
    if doubtful and not np.isfinite(samples).all():
        bad = int(len(samples) - np.isfinite(samples).reshape(len(samples), -1).all(axis=1).sum())
        raise DataError(f"{path}: {bad} of {len(samples)} samples are NaN or infinite")
    if channels > 1:
        samples = samples.mean(axis=1)
    return samples if rate == sample_rate else _resample(samples, rate, sample_rate)


def check_format(path: str, rate: int, channels: int, needed: int) -> None:
    """Check that a file is mono and of the rate needed.

    Raises:
        DataError: it is not; the message says what was found.
    """
    if rate != needed:
        raise DataError(f"{path}: sample rate {rate} Hz, need {needed} Hz; --resample converts it")
    if channels != 1:
        raise DataError(f"{path}: {channels} channels, need 1; --resample mixes them down")


def normalize(source: Samples) -> Samples:
    """Return a clip with zero mean and unit (biased) variance; silence stays silence.

    The original's `--normalize`: a layer norm over the whole clip, before any crop.
    """
    if not len(source):
        return source
    clip = torch.from_numpy(source)
    normalized: Samples = F.layer_norm(clip, clip.shape, eps=NORMALIZE_EPSILON).numpy()
    return normalized


@contextmanager
def _open(path: str) -> Iterator[Any]:
    try:
        import soundfile
    except ImportError as e:
        raise MissingPackageError("soundfile", "audio", "reading audio") from e
    except OSError as e:  # the package is there, the library it wraps is not
        raise DataError(f"soundfile cannot load libsndfile: {' '.join(str(e).split())}") from e
    try:
        # Through a descriptor: libsndfile says only "System error" for a missing file, and takes no name that is
        # not valid in the locale.
        with open(path, "rb", buffering=0) as raw, soundfile.SoundFile(raw.fileno(), closefd=False) as file:
            if file.frames >= UNKNOWN_LENGTH:
                raise DataError(f"{path}: its header gives no length (written to a pipe); re-encode the file")
            yield file
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from e
    except soundfile.LibsndfileError as e:
        reason = "empty file" if os.path.isfile(path) and not os.path.getsize(path) else e.error_string
        raise DataError(f"{path}: not readable as audio: {' '.join(reason.split()).rstrip('.')}") from e
    except (ValueError, MemoryError) as e:
        raise DataError(f"{path}: cannot be read: {' '.join(str(e).split()) or 'out of memory'}") from e


def _read_blocks(file: Any, channels: int) -> Samples:
    """Return (S,) or, with several channels, (S, channels)."""
    block = max(1, BLOCK // channels)
    blocks: list[Samples] = []
    while True:
        samples: Samples = file.read(min(block, max(file.frames, 0)), dtype="float32")
        blocks.append(samples)
        if len(samples) < block:
            break
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _resample(samples: Samples, rate: int, needed: int) -> Samples:
    try:
        import soxr
    except ImportError as e:
        raise MissingPackageError("soxr", "audio", f"resampling from {rate} to {needed} Hz") from e
    resampled: Samples = soxr.resample(samples, rate, needed, quality="HQ")
    return resampled
