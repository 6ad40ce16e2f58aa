"""Requests and answers of HTTP/1.1 over asyncio's streams: as much of it as a page and an upload need.

websockets answers GET requests beside its sockets, but refuses any request that has a body. So requests are read here,
and only those that ask for a WebSocket are handed to its protocol (`socket.py`). One answer per connection.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MOST_HEAD = 1 << 14  # bytes of the request line and the headers
READ_SIZE = 1 << 16
_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_SIZE = re.compile(r"[0-9]{1,15}")
# Two of one of these are two meanings, of which a proxy may take the other one.
_ONCE = ("host", "origin", "content-length", "content-type", "authorization")
# Nothing is kept by caches, guessed by browsers, or shown inside of other pages.
_ALWAYS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Connection": "close",
}


class HttpError(Exception):
    """A request that is not answered as it asks.

    Attributes:
        status: of the answer.
        reason: one sentence for the person who asked.
        field: which field of a form it is about, if one is.
    """

    def __init__(self, status: int, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.field = field


@dataclass(frozen=True)
class Request:
    """The head of a request.

    Attributes:
        method: such as `GET`.
        path: without the query.
        query: its last value of each name.
        headers: by their names in lower case; several of one name are joined by commas.
        head: the bytes that all of it was read from.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    head: bytes

    @property
    def size(self) -> int:
        """Bytes of the body.

        Raises:
            HttpError: the request does not tell.
        """
        if "transfer-encoding" in self.headers:
            raise HttpError(411, "A body needs its Content-Length; chunked bodies are not read.")
        text = self.headers.get("content-length", "0")
        if not _SIZE.fullmatch(text):
            raise HttpError(400, "Content-Length is no number.")
        return int(text)


@dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        body: all of it.
        kind: its media type.
        status: such as 200.
        headers: more of them.
    """

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, *, with_body: bool = True) -> bytes:
        """Return the bytes of the answer; an answer to HEAD has no body."""
        headers = {"Content-Type": self.kind, "Content-Length": str(len(self.body)), **_ALWAYS, **self.headers}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body if with_body else b"")


def as_json(values: Any, status: int = 200) -> Response:
    """Return an answer that holds plain data."""
    body = json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    return Response(body, "application/json", status)


def as_text(text: str, status: int = 200) -> Response:
    """Return an answer of one line."""
    return Response(f"{text}\n".encode(), status=status)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read the head of a request; None: the connection ends before one came.

    Raises:
        HttpError: it is no request, or too long.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as e:
        if e.partial:
            raise HttpError(400, "The request ends within its head.") from e
        return None
    except asyncio.LimitOverrunError as e:
        raise HttpError(431, f"The head of the request is longer than {MOST_HEAD} bytes.") from e
    if len(head) > MOST_HEAD:
        raise HttpError(431, f"The head of the request is longer than {MOST_HEAD} bytes.")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0") or not words[1].isascii():
        raise HttpError(400, "This is no request of HTTP/1.1.")
    try:
        target = urlsplit(words[1])
    except ValueError as e:
        raise HttpError(400, "The address of the request cannot be read.") from e
    return Request(words[0], target.path, dict(parse_qsl(target.query)), _headers(lines), head)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or not _NAME.fullmatch(name) or "\n" in value or "\r" in value or "\0" in value:
            raise HttpError(400, "A header of the request cannot be read.")
        if name in headers and name in _ONCE:
            raise HttpError(400, f"The request has several headers {name}.")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def read_body(reader: asyncio.StreamReader, size: int, patience: float) -> AsyncIterator[bytes]:
    """Yield the `size` bytes of a body as they come.

    Raises:
        HttpError: it ends early, or nothing comes for `patience` seconds.
    """
    while size:
        try:
            data = await asyncio.wait_for(reader.read(min(size, READ_SIZE)), patience)
        except asyncio.TimeoutError as e:
            raise HttpError(408, f"Nothing came for {patience:g} seconds.") from e
        if not data:
            raise HttpError(400, "The request ends within its body.")
        size -= len(data)
        yield data
