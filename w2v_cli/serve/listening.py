"""The microphone of one client: samples from its socket, events back to it.

The client first sends `{"sample_rate": 48000}`, then 16-bit samples of one channel in messages of any size, then
`{"stop": true}`. It is sent `ready`, and the events of `w2v-live`; a `final` also carries its subtitles (`cues`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w2v.data.audio_queue import AudioQueue
from w2v.data.pcm import PcmDecoder, PcmFormat
from w2v.inference.live import FINAL, LiveEvent, LiveSession, listen
from w2v.inference.result import Transcript
from w2v_cli.serve.socket import Socket

if TYPE_CHECKING:
    from w2v.inference.live_options import LiveOptions
    from w2v.inference.subtitles import SubtitleStyle
    from w2v.inference.transcriber import Transcriber

Samples = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)

RATES = range(8000, 384_001)  # Hz, of sound cards
BLOCK = 0.02  # seconds that are heard at once, at least
AHEAD = 2.0  # seconds that a client may be ahead of the clock
NORMAL, GOING_AWAY, POLICY, FAILED = 1000, 1001, 1008, 1011  # codes of RFC 6455, 7.4.1


class RuleError(Exception):
    """What a client sent cannot be used; the reason is sent to it."""


class Listening:
    """One client that is heard. The model computes in a thread of its own, so that the loop stays free.

    Args:
        socket: of the client.
        transcriber: the model of all clients.
        options: how speech is cut into utterances.
        style: of subtitles.
        silence: seconds after which a client that sends nothing is let go.
        stopping: is set when the server stops.
    """

    def __init__(
        self,
        socket: Socket,
        transcriber: Transcriber,
        options: LiveOptions,
        style: SubtitleStyle,
        silence: float,
        stopping: asyncio.Event,
    ) -> None:
        self._socket = socket
        self._transcriber = transcriber
        self._options = options
        self._style = style
        self._silence = silence
        self._rate = transcriber.info.sample_rate
        self._queue = AudioQueue(self._rate)
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[LiveEvent | None] = asyncio.Queue()
        self._stopping = stopping
        self._has_failed = False

    async def run(self) -> None:
        """Hear the client until it stops, goes, or breaks the rules, or until the server stops."""
        thread = threading.Thread(target=self._hear, name="w2v-live", daemon=True)
        thread.start()
        telling = asyncio.ensure_future(self._tell())
        taking = asyncio.ensure_future(self._take())
        end = asyncio.ensure_future(self._stopping.wait())
        try:
            # `telling` ends before the others where the client takes nothing, or the model fails.
            await asyncio.wait([taking, telling, end], return_when=asyncio.FIRST_COMPLETED)
            taking.cancel()
            code, reason = self._outcome(taking, end)
            if code is None:
                self._queue.drain()
            self._queue.close()
            await telling
            await self._socket.close(code or NORMAL, reason)
        finally:
            self._queue.close()
            self._queue.drain()
            for task in (taking, telling, end):
                task.cancel()
            # The place of a client that went is free once its last decoding is over.
            await asyncio.to_thread(thread.join)

    def _outcome(self, taking: asyncio.Task[bool], end: asyncio.Task[Any]) -> tuple[int | None, str]:
        """Return the code and the reason that end the connection; no code: the client is gone."""
        if taking.done() and not taking.cancelled():
            error = taking.exception()
            if isinstance(error, RuleError):
                return POLICY, str(error)
            if error is not None:
                raise error
            return (NORMAL, "") if taking.result() else (None, "")
        if end.done():
            return GOING_AWAY, "the server was stopped"
        return (FAILED, "the server failed; its own messages say why") if self._has_failed else (None, "")

    async def _take(self) -> bool:
        """Put what the client sends into the queue; return whether it said the end, and did not just go.

        Raises:
            RuleError: it sent something else, or nothing.
        """
        rate = _sample_rate(await self._receive())
        ready = {"event": "ready", "model": self._transcriber.info.model, "sample_rate": self._rate}
        await self._socket.send(json.dumps(ready))
        converter = Converter(rate, self._rate)
        begun = time.monotonic()
        num_bytes = 0
        block = bytearray()
        while True:
            message = await self._receive()
            if message is None:
                return False
            if isinstance(message, str):
                values = _plain(message)
                if not isinstance(values, dict) or values.get("stop") is not True:
                    raise RuleError('what follows the rate must be samples, or {"stop": true}')
                self._queue.put(converter.push(bytes(block)))
                self._queue.put(converter.finish())
                return True
            block += message
            num_bytes += len(message)
            if len(block) < 2 * rate * BLOCK:  # a message may be a single byte
                continue
            self._queue.put(converter.push(bytes(block)))
            block.clear()
            # A microphone is never ahead of the clock: what it sends is taken at once, and the oldest is dropped where
            # the model is too slow. Files and floods are, and are not read before the model has come so far.
            while num_bytes / (2 * rate) > time.monotonic() - begun + AHEAD and self._queue.seconds > AHEAD:
                await asyncio.sleep(0.02)

    async def _receive(self) -> str | bytes | None:
        try:
            return await self._socket.receive(self._silence)
        except TimeoutError as e:
            raise RuleError(f"nothing was sent for {self._silence:g} seconds") from e

    async def _tell(self) -> None:
        """Send events to the client until there are no more."""
        while (event := await self._outbox.get()) is not None:
            await self._socket.send(json.dumps(_message(event, self._style), ensure_ascii=False))

    def _hear(self) -> None:
        """Run the model over the queue; this is the thread."""
        try:
            session = LiveSession(self._transcriber, self._options, clock=time.thread_time)
            for event in listen(session, self._queue, self._stopping.is_set):
                self._loop.call_soon_threadsafe(self._outbox.put_nowait, event)
        except Exception:
            self._has_failed = True
            logger.exception("a client is not heard any more")
        finally:
            self._loop.call_soon_threadsafe(self._outbox.put_nowait, None)


class Converter:
    """Bytes of 16-bit samples at the client's rate to samples at the model's; seams leave no trace."""

    def __init__(self, rate: int, needed: int) -> None:
        self._decoder = PcmDecoder(PcmFormat("s16le", rate))
        self._stream: Any = None
        if rate != needed:
            import soxr

            self._stream = soxr.ResampleStream(rate, needed, 1, dtype="float32", quality="HQ")

    def push(self, data: bytes) -> Samples:
        """Return (S,) the samples that are complete."""
        samples = self._decoder.push(data)
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> Samples:
        """Return (S,) the samples that the resampler still holds."""
        rest = np.zeros(0, np.float32)
        return rest if self._stream is None else self._stream.resample_chunk(rest, last=True)


def _message(event: LiveEvent, style: SubtitleStyle) -> dict[str, Any]:
    """Return an event for the page: a final has its subtitles, as (first ms, last ms, text)."""
    values = event.json()
    if event.kind == FINAL:
        spans = Transcript("", event.end, event.segments).cues(style)
        values["cues"] = [(span.start, span.end, span.text) for span in spans]
    return values


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _sample_rate(message: str | bytes | None) -> int:
    """Return the rate that the first message of a client gives."""
    values = _plain(message) if isinstance(message, str) else None
    rate = values.get("sample_rate") if isinstance(values, dict) else None
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate not in RATES:
        raise RuleError(f'the first message must be {{"sample_rate": from {RATES[0]} to {RATES[-1]} Hz}}')
    return int(rate)
