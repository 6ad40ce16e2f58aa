"""Clips from audio files: FLAC, WAV, OGG, MP3 and whatever else libsndfile reads; M4A and its kin through `media_file`.

Every failure is a `DataError` that names the file and the reason in one line. A header is never trusted with memory:
a file is read, mixed down and resampled in blocks until it ends. Cropping and batching are done by `dataset`.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.data import media_file as media
from w2v.data.audio_files import MEDIA_ENDINGS, ending_of
from w2v.data.guessed_length import is_guessed
from w2v.data.joined_flac import UNKNOWN_LENGTH, JoinedFlac
from w2v.data.size_check import check_sizes
from w2v.errors import DataError, MissingPackageError
from w2v.files.pointer import refuse_pointer
from w2v.shards.member import Loaded, Member, Source
from w2v.system import OPEN_AT_ONCE

Samples = npt.NDArray[np.float32]

STREAM_BLOCK = 1 << 19  # values read at once where a recording of any length streams through
BLOCK = 1 << 22  # values read at once: 262 s of 16 kHz mono, so that an ordinary clip takes one read
LONGEST = 8 * 3600  # seconds of a clip: 1.8 GB at 16 kHz. A FLAC of silence holds weeks in a few megabytes
LOUDEST = 2.0**31  # integers of 32 bits, stored as floats; squares of these still fit into float32
LARGEST_RATIO = 100  # of two sample rates; a header of 1 Hz would make gigabytes of a small file
NORMALIZE_EPSILON = 1e-5
_INTEGERS_BLOCK = 1 << 17  # samples; they stay in the cache
_SQUARES_ROW = 1024
_UNKNOWN_FORMATS = (1, 3)  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT, SF_ERR_UNSUPPORTED_ENCODING


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


def audio_info(path: Source) -> AudioInfo:
    """Read a file's header.

    Formats that do not say how long they are (WebM, ADTS) are decoded to be measured.

    Raises:
        DataError: the file cannot be opened as audio, or does not say how long it is.
    """
    with _open(path) as file:
        frames = file.frames if file.frames is not None else sum(map(len, file.blocks(BLOCK)))
        return AudioInfo(file.sample_rate, file.channels, frames)


def audio_seconds(path: Source) -> float | None:
    """Return what a header says about the length; None: nothing, or it cannot be read."""
    try:
        with _open(path) as file:
            return None if file.frames is None else max(file.frames, 0) / file.sample_rate
    except DataError:
        return None


def audio_format(path: Source) -> tuple[int, int] | None:
    """Return the rate in Hz and the number of channels of a file; None: its header cannot be read."""
    try:
        with _open(path) as file:
            return file.sample_rate, file.channels
    except DataError:
        return None


def read_audio(
    path: Source,
    sample_rate: int,
    *,
    resample: bool = False,
    channel: int | None = None,
    start: int = 0,
    frames: int | None = None,
) -> Samples:
    """Read a clip: a file, or a stretch of one.

    Differs from the original: other sample rates can be resampled, and several channels are averaged only when
    asked (the original always averages them); samples that are not finite are refused.

    Args:
        path: the file.
        sample_rate: rate needed, in Hz.
        resample: bring other rates to `sample_rate` and average several channels, instead of refusing them.
        channel: take this channel alone, from 1.
        start: first sample, counted at the file's own rate.
        frames: samples from there, at that rate; None: to the end.

    Returns:
        (S,) float32, nominally in [-1, 1]; empty where the file holds no samples.

    Raises:
        DataError: the file is unreadable, of another rate or not mono, longer than `LONGEST`, or holds samples that
            are not finite or beyond `LOUDEST`.
    """
    with _open(path) as file:
        rate = file.sample_rate
        if not resample:
            check_format(path, rate, 1 if channel else file.channels, sample_rate)
        # A stretch of a long file takes no more memory than it needs.
        size = BLOCK if frames is None else min(BLOCK, max(frames, 1) * file.channels)
        cut = file.skip(path, start)
        blocks = _mono_blocks(path, file, size, LONGEST if frames is None else math.inf, channel)
        if start or frames is not None:
            blocks = _stretch(path, blocks, start - cut, frames)
        return _join(blocks if rate == sample_rate else resampled(str(path), blocks, rate, sample_rate))


def audio_blocks(
    path: Source, sample_rate: int, *, resample: bool = True, channel: int | None = None
) -> Iterator[Samples]:
    """Yield (S,) blocks of a file of any length, rate and number of channels, as `read_audio` would join them.

    Args:
        path: the file.
        sample_rate: rate needed, in Hz.
        resample: bring other rates to `sample_rate` and average several channels, instead of refusing them.
        channel: take this channel alone, from 1.

    Raises:
        DataError: the file is unreadable, or holds samples that are not finite or beyond `LOUDEST`.
    """
    with _open(path) as file:
        rate = file.sample_rate
        if not resample:
            check_format(path, rate, 1 if channel else file.channels, sample_rate)
        blocks = _mono_blocks(path, file, STREAM_BLOCK, math.inf, channel)
        yield from blocks if rate == sample_rate else resampled(str(path), blocks, rate, sample_rate)


def read_stretch(path: Source, sample_rate: int, start: float, end: float) -> Samples:
    """Return a stretch of a recording of any length: blocks before it are let go, those after it are not read.

    Args:
        path: the file.
        sample_rate: rate of the result, in Hz.
        start: in seconds.
        end: in seconds; what the recording lacks of the stretch is left out.

    Raises:
        DataError: as `audio_blocks`, or the recording ends before the stretch begins.
    """
    first, last = round(start * sample_rate), round(end * sample_rate)
    parts, position = [], 0
    for block in audio_blocks(path, sample_rate):
        parts.append(block[max(first - position, 0) : max(last - position, 0)])
        position += len(block)
        if position >= last:
            break
    if position <= first:
        raise DataError(f"{path}: ends at {position / sample_rate:.3f} s, before second {start:g}")
    return _join(parts)


def read_window(path: Source, sample_rate: int, size: int, start: int, out: Samples, offset: int | None = None) -> bool:
    """Read a part of an ordinary clip straight into its place: without a copy, and without what comes before and after.

    Args:
        path: the file.
        sample_rate: rate it must have, in Hz.
        size: samples it must hold, by its header; or of a stretch of it.
        start: first sample to be read, counted from the beginning of the clip.
        out: (S,) where they go; zeros come behind the end of the clip.
        offset: where in the file the clip begins that is a stretch of it; None: the clip is the file.

    Returns:
        whether it could be done: the file is as it should be, mono, and holds whole numbers, which are always finite.
        `read_audio` knows what to do with all others, or why they cannot be used.
    """
    window = out[: size - start]
    try:
        with _open_with_libsndfile(path) as file:
            found = (file.samplerate, file.channels, file.subtype[:4])
            fits = file.frames == size if offset is None else file.frames >= offset + size
            if found != (sample_rate, 1, "PCM_") or not fits or size > LONGEST * sample_rate:
                return False
            if start or offset:
                file.seek(start + (offset or 0))
            if not _read_into(file, window):
                return False
    except DataError:
        return False
    out[len(window) :] = 0
    return True


def _read_into(file: Any, out: Samples) -> bool:
    """Fill `out` with the next samples of a mono file of whole numbers; return whether there were enough."""
    if file.subtype != "PCM_16":
        return len(file.read(out=out)) == len(out)
    # libsndfile takes five times as long to turn whole numbers into floats as to read them.
    block = np.empty(min(_INTEGERS_BLOCK, len(out)), dtype=np.int16)
    for first in range(0, len(out), _INTEGERS_BLOCK):
        part = out[first : first + _INTEGERS_BLOCK]
        found = file.read(out=block[: len(part)])
        if len(found) < len(part):
            return False
        np.multiply(found, np.float32(2**-15), out=part)
    return True


def check_format(path: Source, rate: int, channels: int, needed: int) -> None:
    """Check that a file is mono and of the rate needed.

    Raises:
        DataError: it is not; the message says what was found.
    """
    if rate != needed:
        raise DataError(f"{path}: sample rate {rate} Hz, need {needed} Hz; --resample converts it")
    if channels != 1:
        raise DataError(f"{path}: {channels} channels, need 1; --resample mixes them down")


def normalize(source: Samples, epsilon: float = NORMALIZE_EPSILON) -> Samples:
    """Return a clip with zero mean and unit (biased) variance; silence stays silence.

    The original's `--normalize`: a layer norm over the whole clip, before any crop.

    Args:
        source: (S,) samples.
        epsilon: added to the variance; 1e-7 in Hugging Face's feature extractor, which shows in quiet recordings.
    """
    if not len(source):
        return source
    result = np.empty_like(source)
    result *= centre(source, result, epsilon)
    return result


def centre(clip: Samples, out: Samples, epsilon: float = NORMALIZE_EPSILON) -> np.float32:
    """Write a clip (S,) of at least one sample with zero mean to `out`; return what brings that to unit variance."""
    np.subtract(clip, clip.mean(), out=out)
    # Sums of rows in float32, their sum in float64.
    size = len(out) // _SQUARES_ROW * _SQUARES_ROW
    rows, rest = out[:size].reshape(-1, _SQUARES_ROW), out[size:]
    squares = float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64)) + float(np.einsum("i,i", rest, rest))
    scale: np.float32 = np.float32(1 / math.sqrt(squares / len(out) + epsilon))
    return scale


@dataclass(frozen=True)
class _AudioFile:
    """An open file, whichever library reads it.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel by its header; None: it does not tell.
        is_whole: whether its samples are whole numbers, which are always finite and become floats in [-1, 1].
        blocks: from a number of values to an iterator over (S,) or (S, channels) float32, until the file ends.
        seek: moves to a sample at once; None: all before it has to be read.
    """

    sample_rate: int
    channels: int
    frames: int | None
    is_whole: bool
    blocks: Callable[[int], Iterator[Samples]]
    seek: Callable[[int], Any] | None = None

    def skip(self, path: Source, start: int) -> int:
        """Move to sample `start` if that is quick; return how far the file has been moved.

        Raises:
            DataError: the file is shorter.
        """
        if not start or self.seek is None or self.frames is None:
            return 0
        if start > self.frames:
            raise DataError(f"{path}: holds {self.frames} samples, and none at {start}")
        self.seek(start)
        return start


class _UnknownFormatError(DataError):
    """libsndfile does not know the format."""


@contextmanager
def _open(path: Source) -> Iterator[_AudioFile]:
    """Open a file with libsndfile or, where that does not know its format, with FFmpeg."""
    if isinstance(path, Member):
        path = path.load()  # once, whichever libraries look at it
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open_with_libsndfile(path))
        except _UnknownFormatError as unknown:
            yield _open_with_ffmpeg(stack, path, unknown)
            return
        if file.frames >= UNKNOWN_LENGTH:
            raise DataError(f"{path}: its header gives no length (written to a pipe); re-encode the file")
        check_sizes(path, file.format, file.subtype, file.channels, file.frames, file.samplerate)
        if is_guessed(path, file.format):
            yield _open_whole(stack, path, file.format)
            return

        def blocks(size: int) -> Iterator[Samples]:
            at_once = max(1, size // file.channels)
            while True:
                block: Samples = file.read(min(at_once, max(file.frames, 0)), dtype="float32")
                yield block
                if len(block) < at_once:
                    return

        is_whole = file.subtype.startswith("PCM_")
        yield _AudioFile(file.samplerate, file.channels, file.frames, is_whole, blocks, file.seek if is_whole else None)


def _open_with_ffmpeg(stack: ExitStack, path: Source, unknown: DataError) -> _AudioFile:
    is_media = ending_of(str(path)) in MEDIA_ENDINGS
    if not media.is_installed():
        if is_media:
            raise DataError(f'{path}: libsndfile does not read this format, PyAV does: pip install "w2v[media]"')
        raise unknown
    raw = _raw(path)
    stack.callback(raw.close)
    try:
        file = stack.enter_context(media.media_file(raw, str(path)))
    except DataError as e:
        raise e if is_media else unknown from e
    return _AudioFile(file.sample_rate, file.channels, file.frames, False, file.blocks)


def _open_whole(stack: ExitStack, path: Source, container: str) -> _AudioFile:
    """Open a file of several streams, or of guessed length, with what reads it to its end."""
    raw = _raw(path)
    stack.callback(raw.close)
    if container == "FLAC" and (joined := JoinedFlac.of(_content(stack, raw), str(path))) is not None:
        return _AudioFile(joined.sample_rate, joined.channels, joined.frames, True, joined.blocks)
    if not media.is_installed():
        raise DataError(
            f"{path}: is joined of several files, or of variable bit rate without a table, and libsndfile reads only a "
            'part of it; re-encode it, or: pip install "w2v[media]"'
        )
    file = stack.enter_context(media.media_file(raw, str(path)))
    return _AudioFile(file.sample_rate, file.channels, None, False, file.blocks)


@contextmanager
def _open_with_libsndfile(path: Source) -> Iterator[Any]:
    try:
        import soundfile
    except ImportError as e:
        raise MissingPackageError("soundfile", "audio", "reading audio") from e
    except OSError as e:  # the package is there, the library it wraps is not
        raise DataError(f"soundfile cannot load libsndfile: {' '.join(str(e).split())}") from e
    try:
        # A file through its descriptor: libsndfile says only "System error" for a missing file, and takes no name that
        # is not valid in the locale.
        with _raw(path) as raw:
            place = raw if isinstance(raw, io.BytesIO) else raw.fileno()
            with soundfile.SoundFile(place, closefd=False) as file:
                yield file
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from e
    except soundfile.LibsndfileError as e:
        if not isinstance(path, (Member, Loaded)):
            refuse_pointer(path, DataError)
        reason = "empty file" if _is_empty(path) else e.error_string
        kind = _UnknownFormatError if e.code in _UNKNOWN_FORMATS and reason != "empty file" else DataError
        raise kind(f"{path}: not readable as audio: {' '.join(reason.split()).rstrip('.')}") from e
    except (ValueError, MemoryError) as e:
        raise DataError(f"{path}: cannot be read: {' '.join(str(e).split()) or 'out of memory'}") from e


def _raw(path: Source) -> io.BytesIO | io.RawIOBase:
    """Open a file, or a clip inside of one, for reading."""
    if isinstance(path, Member):
        path = path.load()
    if isinstance(path, Loaded):
        return path.open()
    return open(path, "rb", buffering=0, opener=_open_at_once)


def _content(stack: ExitStack, raw: Any) -> bytes | mmap.mmap:
    """Return what an open file holds; of one on the disk only what is looked at is read."""
    if isinstance(raw, io.BytesIO):
        return raw.getvalue()
    return stack.enter_context(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ))


def _is_empty(path: Source) -> bool:
    if isinstance(path, str):
        return os.path.isfile(path) and not os.path.getsize(path)
    return isinstance(path, Loaded) and not path.content


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a named pipe would keep a worker for ever, and a device has no end."""
    number = os.open(path, flags | OPEN_AT_ONCE)
    kind = os.fstat(number).st_mode
    # A folder is left to `open`, which says so.
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        os.close(number)
        raise OSError(None, "it is a pipe or a device, not a file")
    return number


def _stretch(path: Source, blocks: Iterable[Samples], skip: int, frames: int | None) -> Iterator[Samples]:
    """Yield a part of (S,) blocks: without the first `skip` samples, and `frames` from there on.

    Raises:
        DataError: there are not so many.
    """
    wanted = math.inf if frames is None else frames
    for block in blocks:
        if skip >= len(block):
            skip -= len(block)
            continue
        part = block[skip : skip + int(min(wanted, len(block)))]
        skip, wanted = 0, wanted - len(part)
        yield part
        if wanted <= 0:
            return
    if frames is not None:
        raise DataError(f"{path}: ends {int(wanted)} samples before the stretch that is asked for")


def _mono_blocks(
    path: Source, file: _AudioFile, size: int, longest: float, channel: int | None = None
) -> Iterator[Samples]:
    """Yield (S,) blocks of one channel, or of the mean of all, of `size` values of the file, until it ends."""
    if channel is not None and channel > file.channels:
        raise DataError(f"{path}: has {file.channels} channels, and no channel {channel}")
    num_read = 0
    for block in file.blocks(size):
        # Looking for values that are not finite takes a tenth of the time that reading a WAV file does.
        peak = 0 if file.is_whole else max(block.max(initial=0), -block.min(initial=0))  # NaN where a sample is
        if not peak <= LOUDEST:
            rows = np.abs(block.reshape(len(block), -1)).max(axis=1)
            place = (num_read + int(np.argmin(rows <= LOUDEST))) / file.sample_rate
            found = f"a sample of {peak:.3g}" if np.isfinite(peak) else "NaN or infinite samples"
            raise DataError(f"{path}: holds {found}, first at {place:.3f} s")
        num_read += len(block)
        if num_read > longest * file.sample_rate:
            raise DataError(f"{path}: is longer than {LONGEST // 3600} hours; cut it into clips")
        if block.ndim == 1:
            yield block
        else:
            yield block.mean(axis=1) if channel is None else np.ascontiguousarray(block[:, channel - 1])


def resampled(name: str, blocks: Iterable[Samples], rate: int, needed: int) -> Iterator[Samples]:
    """Yield blocks (S,) brought from one sample rate to another; the seams between blocks leave no trace.

    Args:
        name: of the recording, for messages.
        blocks: at `rate` Hz.
        rate: what they have.
        needed: what they get, in Hz.

    Raises:
        DataError: the rates are more than `LARGEST_RATIO` apart.
    """
    import soxr

    if not rate / LARGEST_RATIO <= needed <= rate * LARGEST_RATIO:
        raise DataError(f"{name}: a sample rate of {rate} Hz cannot be brought to {needed} Hz")
    stream = soxr.ResampleStream(rate, needed, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _join(blocks: Iterable[Samples]) -> Samples:
    """Return the blocks as one array; each is let go once it is copied, so that no clip is ever held twice."""
    parts = [block for block in blocks if len(block)]
    if len(parts) == 1:
        return parts[0]
    joined = np.empty(sum(map(len, parts)), dtype=np.float32)
    end = len(joined)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    return joined
