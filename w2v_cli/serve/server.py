"""One port: the page, its socket, and transcription in OpenAI's form."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, BinaryIO

from w2v.errors import ConfigError
from w2v.inference.subtitles import SubtitleStyle
from w2v_cli.serve.access import Access
from w2v_cli.serve.http import MOST_HEAD, HttpError, Request, Response, as_text, read_body, read_request
from w2v_cli.serve.listening import Listening
from w2v_cli.serve.socket import Socket
from w2v_cli.serve.transcriptions import as_error, model_list, transcription

if TYPE_CHECKING:
    from w2v.inference.live_options import LiveOptions
    from w2v.inference.transcriber import Transcriber

logger = logging.getLogger(__name__)

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
SOCKET, MODELS, TRANSCRIPTIONS = "/live", "/v1/models", "/v1/audio/transcriptions"
PATIENCE = 10.0  # seconds for the head of a request, and for a client to take the last answer
TRY_AGAIN_LATER = 1013  # code of RFC 6455's registry


@dataclass(frozen=True)
class Limits:
    """How much one server takes.

    Attributes:
        sessions: microphones at once.
        message: bytes of a message of theirs.
        silence: seconds after which a client that sends nothing is let go.
        upload: bytes of a recording that is sent in one piece.
        uploads: of those at once, on the disk.
        transcribed: of those transcribed at once; the others wait.
        connections: of all kinds.
    """

    sessions: int = 4
    message: int = 1 << 16
    silence: float = 30.0
    upload: int = 200 << 20
    uploads: int = 8
    transcribed: int = 2
    connections: int = 256


class Server:
    """Answers browsers and programs; the model computes in other threads.

    Args:
        transcriber: the one model of all clients.
        options: how their speech is cut into utterances.
        access: who may ask.
        style: of subtitles.
        limits: how much.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        options: LiveOptions,
        access: Access,
        style: SubtitleStyle | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.transcriber = transcriber
        self.options = options
        self.access = access
        self.style = style or SubtitleStyle()
        self.limits = limits or Limits()
        self._files = page_files()
        self._stopping = asyncio.Event()
        self._transcribing = asyncio.Semaphore(self.limits.transcribed)
        self._num_uploads = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._sessions: set[asyncio.Task[None]] = set()  # those of them that hear a microphone

    async def run(self, host: str, port: int, ready: Callable[[int], None]) -> None:
        """Answer until `stop` is called; then end what is being said, and return.

        Args:
            host: address to listen on.
            port: to listen on; 0: any that is free.
            ready: is told the port, once clients can come.

        Raises:
            ConfigError: the address cannot be used.
        """
        try:
            server = await asyncio.start_server(self._connected, host, port, limit=MOST_HEAD)
        except OSError as e:
            raise ConfigError(f"--host {host} --port {port}: {e.strerror or e}; give another one") from e
        async with server:
            ready(server.sockets[0].getsockname()[1])
            await self._stopping.wait()
            server.close()
            for task in self._connections - self._sessions:
                task.cancel()
            if self._sessions:
                await asyncio.wait(self._sessions, timeout=PATIENCE)

    def stop(self) -> None:
        """Let `run` end; to be called in its loop."""
        self._stopping.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = _this_task()
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            pass  # the client is gone, or the program ends
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and answer it."""
        if len(self._connections) > self.limits.connections:
            await _send(reader, writer, as_text("This server has too many connections.", 503))
            return
        request: Request | None = None
        try:
            request = await asyncio.wait_for(read_request(reader), PATIENCE)
            if request is None:
                return
            self.access.check(request)
            if request.path == SOCKET and "upgrade" in request.headers:
                self.access.check_token(request)
                await self._listen(request, reader, writer)
                return
            response = await self._answer(request, reader, writer)
        except HttpError as e:
            response = _refusal(request, e)
        except (ConnectionError, asyncio.TimeoutError):
            raise
        except Exception:  # the disk is full, or a fault of ours
            logger.exception("a request was not answered")
            response = _refusal(request, HttpError(500, "The server failed; its own messages say why."))
        await _send(reader, writer, response, with_body=request is None or request.method != "HEAD")

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Response:
        """Return the answer to a request.

        Raises:
            HttpError: it cannot be answered.
        """
        self.access.check_token(request)
        if request.path == TRANSCRIPTIONS:
            _check_method(request, "POST")
            return await self._transcribe(request, reader, writer)
        if request.path == MODELS:
            _check_method(request, "GET")
            return model_list(self.transcriber.info.model)
        name = request.path.removeprefix("/") or "index.html"
        if name not in self._files:
            raise HttpError(404, f"There is nothing at {request.path}.")
        _check_method(request, "GET")
        if name == "index.html" and self.access.token is not None and "token" in request.query:
            # The token leaves the address, which ends up in histories and on screens.
            return Response(b"", status=303, headers={"Location": "./", "Set-Cookie": self.access.cookie(request)})
        kind = KINDS[name.rpartition(".")[2]]
        return Response(self._files[name], f"{kind}; charset=utf-8", headers=_page_policy(request))

    async def _transcribe(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Response:
        """Take a recording to the disk as it comes, and transcribe it in another thread."""
        size, most = request.size, self.limits.upload
        if size > most:
            raise HttpError(
                413, f"The recording is larger than {most >> 20} MB; w2v-transcribe takes any size.", "file"
            )
        if self._num_uploads >= self.limits.uploads:
            raise HttpError(503, "Too many recordings are waiting; try again later.")
        self._num_uploads += 1
        try:
            if request.headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            with tempfile.TemporaryFile(prefix="w2v-") as upload:
                async for data in read_body(reader, size, self.limits.silence):
                    upload.write(data)
                async with self._transcribing:
                    return await self._in_thread(upload, request.headers.get("content-type", ""), reader)
        finally:
            self._num_uploads -= 1

    async def _in_thread(self, upload: BinaryIO, kind: str, reader: asyncio.StreamReader) -> Response:
        gone = asyncio.ensure_future(reader.read(1))  # a client has no more to say: this is its end

        def is_wanted() -> bool:
            return not gone.done() and not self._stopping.is_set()

        try:
            return await asyncio.to_thread(transcription, upload, kind, self.transcriber, self.style, is_wanted)
        finally:
            gone.cancel()

    async def _listen(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear the microphone behind a socket."""
        socket = Socket(reader, writer, self.limits.message)
        if not await socket.accept(request.head):
            await socket.close(1002)
            return
        if len(self._sessions) >= self.limits.sessions:
            await socket.close(TRY_AGAIN_LATER, f"{self.limits.sessions} sessions are open already")
            return
        self._sessions.add(_this_task())
        try:
            silence = self.limits.silence
            await Listening(socket, self.transcriber, self.options, self.style, silence, self._stopping).run()
        finally:
            self._sessions.discard(_this_task())


def page_files() -> dict[str, bytes]:
    """Return the files of the page by their names."""
    folder = resources.files("w2v_cli.serve") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in KINDS}


def _page_policy(request: Request) -> dict[str, str]:
    """Return the headers that keep a page to what comes from this server."""
    host = request.headers["host"]
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        # Safari before 15.4 does not count a socket to the same server as 'self'.
        f"connect-src 'self' ws://{host} wss://{host}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    return {
        "Content-Security-Policy": policy,
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


def _refusal(request: Request | None, error: HttpError) -> Response:
    is_api = request is not None and request.path.startswith("/v1/")
    return as_error(error) if is_api else as_text(error.reason, error.status)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _check_method(request: Request, method: str) -> None:
    if request.method != method and (request.method, method) != ("HEAD", "GET"):
        raise HttpError(405, f"{request.path} takes {method}, not {request.method}.")


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: Response, *, with_body: bool = True
) -> None:
    """Send the one answer of a connection, and wait until the client has it.

    What the client still sends is read and let go: a connection that is closed with bytes unread is reset, and the
    client may lose the answer.
    """
    writer.write(response.encode(with_body=with_body))
    await asyncio.wait_for(writer.drain(), PATIENCE)
    if writer.can_write_eof():
        writer.write_eof()

    async def rest() -> None:
        while await reader.read(MOST_HEAD):
            pass

    await asyncio.wait_for(rest(), PATIENCE)
