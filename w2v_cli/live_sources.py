"""Where live speech comes from: a microphone, a pipe, or a file that is taken for one. Needs no torch."""

from __future__ import annotations

import io
import queue
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from w2v.data.audio import audio_blocks, resampled
from w2v.data.audio_queue import AudioQueue, Samples
from w2v.errors import ConfigError, MissingPackageError, W2vError
from w2v.inference.recording import PipeRecording
from w2v_cli.live_flags import LiveFlags
from w2v_cli.recordings import STANDARD_INPUT

BLOCK = 0.05  # seconds that are handed on at once, at most
PATIENCE = 5.0  # seconds after which a microphone that gives no sound is gone


class DeviceError(W2vError):
    """The microphone is gone."""

    exit_code = 1


@dataclass(frozen=True)
class Source:
    """Something that can be heard.

    Attributes:
        name: for messages, and for the files of the transcript.
        is_real_time: whether it does not wait for who hears it.
        blocks: opens it at a sample rate in Hz, and yields (S,) samples of one channel.
    """

    name: str
    is_real_time: bool
    blocks: Callable[[int], Iterator[Samples]]

    def send(self, sample_rate: int, to: AudioQueue) -> None:
        """Put all that comes into a queue, and close it; for a thread of its own."""
        step = max(round(BLOCK * sample_rate), 1)
        try:
            for block in self.blocks(sample_rate):
                for first in range(0, len(block), step):
                    if not to.put(block[first : first + step].astype(np.float32)):
                        return
        except Exception as e:  # told by the thread that hears
            to.close(e)
        else:
            to.close()


def open_source(flags: LiveFlags) -> Source:
    """Return the source that a command line names.

    Raises:
        ConfigError: there is no microphone, or no means to hear it.
        DataError: the file cannot be read.
    """
    if flags.source is None:
        return microphone(flags.device)
    if flags.source == STANDARD_INPUT:

        def piped(sample_rate: int) -> Iterator[Samples]:
            return PipeRecording(_standard_input(), flags.pcm, keep=False).blocks(sample_rate)

        return Source(STANDARD_INPUT, flags.realtime, piped)
    path = flags.source
    for _ in audio_blocks(path, 16000):
        break  # it can be read

    def read(sample_rate: int) -> Iterator[Samples]:
        blocks = audio_blocks(path, sample_rate)
        return paced(blocks, sample_rate) if flags.realtime else blocks

    return Source(path, flags.realtime, read)


def paced(
    blocks: Iterable[Samples],
    sample_rate: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Samples]:
    """Yield small blocks, none before the time at which a microphone would have recorded it."""
    step = max(round(BLOCK * sample_rate), 1)
    begun, done = clock(), 0
    for block in blocks:
        for first in range(0, len(block), step):
            part = block[first : first + step]
            done += len(part)
            sleep(max(begun + done / sample_rate - clock(), 0.0))
            yield part


def microphone(device: str | None) -> Source:
    """Return the microphone of a number or part of a name; None: the system's.

    Raises:
        ConfigError: there is none, or the system has no PortAudio.
        MissingPackageError: sounddevice is not installed.
    """
    sound = _sounddevice()
    which = int(device) if device is not None and device.isdigit() else device
    try:
        found = sound.query_devices(which, "input")
    except (ValueError, sound.PortAudioError) as e:
        asked = "there is no microphone" if device is None else f"--device {device} is no microphone"
        raise ConfigError(f"{asked} ({_reason(e)}); w2v-live --list-devices lists them") from e

    def heard(sample_rate: int) -> Iterator[Samples]:
        # Its own rate: many devices have no other, and the system's resamplers are poor.
        rate = int(found["default_samplerate"])
        blocks = _recorded(sound, found, which, rate)
        return blocks if rate == sample_rate else resampled(found["name"], blocks, rate, sample_rate)

    return Source(found["name"], True, heard)


def device_lines() -> list[str]:
    """Return a line for each microphone: number, name, channels, rate; a star marks the system's own.

    Raises:
        ConfigError: the system has no PortAudio.
        MissingPackageError: sounddevice is not installed.
    """
    sound = _sounddevice()
    own = sound.default.device[0]
    return [
        f"{'*' if number == own else ' '} {number:3d}  {found['name']}  "
        f"({found['max_input_channels']} channels, {found['default_samplerate']:.0f} Hz)"
        for number, found in enumerate(sound.query_devices())
        if found["max_input_channels"] > 0
    ]


def _recorded(sound: Any, found: Any, which: int | str | None, rate: int) -> Iterator[Samples]:
    """Yield the mean of the channels of a microphone as it comes.

    Raises:
        DeviceError: it is gone.
    """
    name = found["name"]
    incoming: queue.SimpleQueue[Samples] = queue.SimpleQueue()

    def take(data: Any, _frames: int, _time: Any, status: Any) -> None:
        if status.input_overflow:
            print(f"w2v-live: {name}: the system lost sound before it was heard", file=sys.stderr, flush=True)
        incoming.put(data.mean(axis=1))

    channels = min(found["max_input_channels"], 2)
    try:
        with sound.InputStream(
            device=which, channels=channels, samplerate=rate, dtype="float32", blocksize=rate // 50, callback=take
        ) as stream:
            while True:
                try:
                    yield incoming.get(timeout=PATIENCE)
                except queue.Empty:
                    raise DeviceError(
                        f"{name}: no sound has come for {PATIENCE:.0f} s; the microphone is gone"
                    ) from None
                if not stream.active and incoming.empty():
                    raise DeviceError(f"{name}: the microphone is gone")
    except sound.PortAudioError as e:
        raise DeviceError(f"{name}: the microphone cannot be heard: {_reason(e)}") from e


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as e:
        raise MissingPackageError("sounddevice", "live", "a microphone") from e
    except OSError as e:  # the package is there, the library behind it is not
        raise ConfigError(
            f"the microphone needs the system's library PortAudio ({_reason(e)}; Debian: apt install libportaudio2); "
            "files and standard input (-) can be heard without it"
        ) from e
    return sounddevice


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _standard_input() -> BinaryIO:
    """Return standard input without its buffer: a thread that waits in it would hold up the end of the program."""
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except (OSError, io.UnsupportedOperation):
        return sys.stdin.buffer
