"""A WebSocket over asyncio's streams: websockets keeps the protocol, this file does the waiting."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from w2v_cli.serve.http import READ_SIZE

if TYPE_CHECKING:
    from websockets.frames import Frame

SLOWEST = 10.0  # seconds in which a client takes what is sent to it, and answers the end of a connection


class Socket:
    """Messages of one client. A message is text or bytes; what is sent is text.

    Args:
        reader: what the client sends; asyncio stops reading while nobody takes it, so that no flood fills the memory.
        writer: what it is sent.
        max_size: bytes of the largest message.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_size: int) -> None:
        from websockets.server import ServerProtocol

        self._reader = reader
        self._writer = writer
        self._protocol = ServerProtocol(max_size=max_size)
        self._message = bytearray()  # what has come of a message in several frames
        self._is_text = False
        self._reading: asyncio.Future[bytes] | None = None
        self._waiting: deque[str | bytes] = deque()

    async def accept(self, head: bytes) -> bool:
        """Answer the request for a WebSocket; return whether there is one now."""
        self._protocol.receive_data(head)
        for request in self._protocol.events_received():
            self._protocol.send_response(self._protocol.accept(request))  # type: ignore[arg-type]
        await self._flush()
        return self.is_open

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.state.name == "OPEN"

    async def receive(self, patience: float) -> str | bytes | None:
        """Return the next message; None: the connection ends, at the client's wish or because it broke the rules.

        Raises:
            TimeoutError: none has come for `patience` seconds.
            ConnectionError: the client is gone.
        """
        # What lies ready is taken without waiting, so that a flood of small messages would stop all other clients.
        await asyncio.sleep(0)
        deadline = time.monotonic() + patience
        while not self._waiting:
            if not self.is_open:
                return None
            await self._read(deadline)
        return self._waiting.popleft()

    async def send(self, text: str) -> None:
        """Send a message, unless the connection ends.

        Raises:
            ConnectionError: the client does not take it.
        """
        if self.is_open:
            self._protocol.send_text(text.encode())
            await self._flush()

    async def close(self, code: int, reason: str = "") -> None:
        """End the connection; the client has `SLOWEST` seconds to answer.

        Args:
            code: of RFC 6455, 7.4.1.
            reason: for people, at most 123 bytes.
        """
        try:
            if self.is_open:
                self._protocol.send_close(code, reason)
                await self._flush()
            deadline = time.monotonic() + SLOWEST
            while not self._reader.at_eof():
                await self._read(deadline)
        except (TimeoutError, ConnectionError):
            self._writer.transport.abort()

    async def _read(self, deadline: float) -> None:
        self._reading = self._reading or asyncio.ensure_future(self._reader.read(READ_SIZE))
        await _wait(self._reading, deadline - time.monotonic())
        reading, self._reading = self._reading, None
        if data := reading.result():
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for frame in self._protocol.events_received():
            self._take(frame)  # type: ignore[arg-type]
        await self._flush()

    def _take(self, frame: Frame) -> None:
        """Add a frame to its message. Pings are answered and the rules are kept by the protocol."""
        if frame.opcode.name not in ("TEXT", "BINARY", "CONT"):
            return
        if frame.opcode.name != "CONT":
            self._is_text = frame.opcode.name == "TEXT"
        self._message += frame.data
        if not frame.fin:
            return
        message = bytes(self._message)
        self._message.clear()
        try:
            self._waiting.append(message.decode() if self._is_text else message)
        except UnicodeDecodeError:
            self._protocol.fail(1007, "text that is not UTF-8")

    async def _flush(self) -> None:
        try:
            for data in self._protocol.data_to_send():
                if data:
                    self._writer.write(data)
                elif self._writer.can_write_eof():
                    self._writer.write_eof()
            draining = asyncio.ensure_future(self._writer.drain())
            await _wait(draining, SLOWEST)
            draining.result()
        except (OSError, TimeoutError) as e:
            raise ConnectionError("the client is gone, or takes nothing") from e


async def _wait(future: asyncio.Future[Any], seconds: float) -> None:
    """Wait for a future, which is kept when it is late: before Python 3.12 `asyncio.wait_for`, one within another one,
    may lose a cancellation, and then waits for ever.

    Raises:
        TimeoutError: it is late.
    """
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio complains of late ones
    await asyncio.wait([future], timeout=max(seconds, 0))
    if not future.done():
        raise TimeoutError
