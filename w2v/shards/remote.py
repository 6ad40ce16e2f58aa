"""Ranges of bytes from servers, asked for again where they do not come.

`https://` goes through Python's own urllib: it hands out an answer as it comes, so that a broken one is continued from
the byte reached, and it has no thread that a fork would break. `s3://`, `gs://` and other schemes go through fsspec.
"""

from __future__ import annotations

import contextlib
import http.client
import mmap
import os
import random
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from time import sleep
from typing import Any
from urllib.parse import urlsplit

from w2v.errors import MissingPackageError, ShardError, W2vError
from w2v.shards.member import shown
from w2v.system import read_at
from w2v.version import __version__

TRIES = 8  # in a row, without a single byte
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds; doubled from one try to the next
SILENCE = 30.0  # seconds without a byte
BLOCK = 1 << 16  # bytes that are taken from a connection at once; smaller than what malloc maps anew each time
PIECE = 8 << 20  # of a range that fsspec fetches at once
OWN_PAGES = 1 << 20  # bytes from which on a range has its own
UNSEEN = 64 << 20  # a range above this is asked for when the size of the shard is known: manifests may be wrong
NO_ROOM = memoryview(bytearray())
BUSY = (408, 425, 429, 500, 502, 503, 504)
OTHERS = {"az": "adlfs", "abfs": "adlfs"}  # packages that no extra brings
_jitter = random.Random()  # its own: nothing else depends on how often a server was asked


class _FinalError(Exception):
    """A reason that asking again will not change."""


class _NoRangesError(Exception):
    """The server sends whole files only."""


class RemoteFile:
    """A shard on a server; nothing is asked for before it is read.

    Args:
        url: its address, with whatever the server wants behind a `?`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._whole: Any = None  # a temporary file, where the server knows no ranges
        self._size: int | None = None
        self._tag = ""
        self._is_known = False
        self._has_ranges = True

    @property
    def size(self) -> int | None:
        """Bytes of the shard; None: the server does not say."""
        self._look()
        return self._size

    @property
    def tag(self) -> str:
        """The server's word for the content of the shard; empty: it has none."""
        self._look()
        return self._tag

    def read(self, start: int, end: int) -> bytes | memoryview:
        """Return the bytes from `start` to `end`; fewer where the shard ends.

        Raises:
            ShardError: they do not come, or never will.
            MissingPackageError: for this scheme a package is needed.
        """
        if not _is_http(self.url) or end - start > UNSEEN:
            self._look()
        if self._whole is None and self._has_ranges:
            try:
                room = _room(self._within(start, end))
                count = self._tried(
                    lambda reached: self._stream(start + reached, end), lambda: self._within(start, end), room
                )
                return room[:count]
            except _NoRangesError:
                pass
        self._fetch_whole()
        return read_at(self._whole.fileno(), max(end - start, 0), start)

    def ask(self, question: Callable[[], Any]) -> None:
        """Ask the server something else, as often as it takes."""

        def asked(reached: int) -> Iterator[bytes]:
            question()
            yield b""

        self._tried(asked)

    def _look(self) -> None:
        with self._lock:
            if self._is_known:
                return
            if _is_http(self.url):
                # The first byte, not HEAD: links that are signed for GET refuse it.
                with contextlib.suppress(_NoRangesError):
                    self._tried(lambda reached: self._http(0, 1), room=memoryview(bytearray(1)))
            else:
                self._tried(lambda reached: self._info())

    def _within(self, start: int, end: int) -> int:
        """Return how many bytes of a range the shard holds, as far as that is known."""
        return max((end if self._size is None else min(end, self._size)) - start, 0)

    def _tried(
        self,
        ask: Callable[[int], Iterator[bytes]],
        wanted: Callable[[], int] = lambda: 0,
        room: memoryview = NO_ROOM,
    ) -> int:
        """Collect an answer until it has `wanted` bytes, and return how many there are; `ask` is told so, too."""
        tries = reached = 0
        while True:
            before = reached
            try:
                for block in ask(before):
                    room[reached : reached + len(block)] = block
                    reached += len(block)
                if reached >= wanted():
                    return reached
                failure = f"the answer ended after {reached} of {wanted()} bytes"
            except _FinalError as e:
                raise ShardError(f"{shown(self.url)}: the shard cannot be read: {e}") from e
            except (OSError, http.client.HTTPException) as e:
                failure = _reason(e)
            tries = 1 if reached > before else tries + 1
            if tries >= TRIES:
                scheme, host = urlsplit(self.url).scheme, urlsplit(shown(self.url)).netloc
                raise ShardError(
                    f"{scheme}://{host}: gave up after {tries} tries to read the shard {shown(self.url)}: {failure}; "
                    "the same command resumes from what is done"
                )
            sleep(min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT) * _jitter.uniform(0.5, 1.0))

    def _stream(self, start: int, end: int) -> Iterator[bytes]:
        """Yield bytes as they come; an answer may break off."""
        end = start + self._within(start, end)
        if start >= end:
            return
        if _is_http(self.url):
            yield from self._http(start, end)
        else:
            for first in range(start, end, PIECE):
                last = min(first + PIECE, end)
                piece: bytes = _asked(partial(_file_system(self.url).cat_file, self.url, start=first, end=last))
                yield piece[: last - first]

    def _http(self, start: int, end: int) -> Iterator[bytes]:
        with _get(self.url, {"Range": f"bytes={start}-{end - 1}"}) as answer:
            self._tag = answer.headers.get("ETag") or ""
            self._has_ranges = answer.status == 206
            told = answer.headers.get("Content-Range" if self._has_ranges else "Content-Length") or ""
            with contextlib.suppress(ValueError):
                self._size = int(told.rpartition("/")[2])
            self._is_known = True
            if not self._has_ranges:
                raise _NoRangesError
            yield from _blocks(answer, end - start)

    def _info(self) -> Iterator[bytes]:
        found = _asked(lambda: _file_system(self.url).info(self.url))
        self._size = None if found.get("size") is None else int(found["size"])
        self._tag, self._is_known = str(found.get("ETag") or found.get("etag") or ""), True
        yield b""

    def _fetch_whole(self) -> None:
        """Fetch the shard into a file without a name, which goes when this object goes."""
        with self._lock:
            if self._whole is not None:
                return
            whole = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object

            def ask(reached: int) -> Iterator[bytes]:
                whole.seek(0)
                whole.truncate()  # there is no way to begin in the middle
                with _get(self.url, {}) as answer:
                    told = answer.headers.get("Content-Length")
                    for block in _blocks(answer, None):
                        whole.write(block)
                    if told is not None and whole.tell() != int(told):
                        raise http.client.IncompleteRead(b"", int(told) - whole.tell())
                whole.flush()
                yield b""

            try:
                self._tried(ask)
            except OSError as e:
                raise ShardError(f"{shown(self.url)}: cannot keep the shard in {tempfile.gettempdir()}: {e}") from e
            self._size, self._whole = whole.tell(), whole


def _room(size: int) -> memoryview:
    """Return memory for bytes that come.

    Ranges lie in pages of their own, which go back to the system as a whole: in a heap that many threads grow, what is
    left between them adds up over a corpus. Single clips do not: a process may have 65,530 mappings.
    """
    return memoryview(mmap.mmap(-1, size) if size >= OWN_PAGES else bytearray(size))


def _is_http(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")


@contextlib.contextmanager
def _get(url: str, headers: dict[str, str]) -> Iterator[Any]:
    fixed = {"Accept-Encoding": "identity", "User-Agent": f"w2v/{__version__}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=fixed | headers), timeout=SILENCE) as answer:
            yield answer
    except urllib.error.HTTPError as e:
        if e.code not in BUSY:
            raise _FinalError(_refusal(e.code)) from None  # its text holds the address
        raise OSError(None, f"HTTP {e.code}") from None
    except urllib.error.URLError as e:
        if isinstance(e.reason, ssl.SSLCertVerificationError):
            raise _FinalError(f"its certificate is not valid: {e.reason.verify_message}") from None
        raise OSError(None, _reason(e.reason)) from None


def _refusal(code: int) -> str:
    if code in (401, 403):
        return f"HTTP {code}: access denied (has a signed link expired?)"
    return f"HTTP {code}" + {404: ": there is no such file", 416: ": it is shorter than its manifest says"}.get(
        code, ""
    )


def _blocks(answer: Any, most: int | None) -> Iterator[bytes]:
    left = most
    while left is None or left > 0:
        block = answer.read1(BLOCK if left is None else min(BLOCK, left))
        if not block:
            return
        if left is not None:
            left -= len(block)
        yield block


@lru_cache(maxsize=8)
def _opened(scheme: str, pid: int) -> Any:
    try:
        import fsspec
    except ImportError:
        raise MissingPackageError("fsspec", "shards", f"reading {scheme}://") from None
    # Asked again by us alone: else 8 tries would be 8 x 5 of s3fs x 5 of s3fs x 5 of botocore.
    s3 = {"read_timeout": SILENCE, "connect_timeout": SILENCE, "retries": {"max_attempts": 0}}
    options: dict[str, Any] = {"s3": {"config_kwargs": s3}}
    try:
        # An instance of this process: one that another process has made may wait for a thread which is not here.
        found = fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **options.get(scheme.replace("s3a", "s3"), {})
        )
    except ImportError:
        if scheme in ("s3", "s3a"):
            raise MissingPackageError("s3fs", "shards", f"reading {scheme}://") from None
        if scheme in ("gs", "gcs"):
            raise MissingPackageError("gcsfs", "shards", f"reading {scheme}://") from None
        package = OTHERS.get(scheme, f"of fsspec for {scheme}")
        raise ShardError(f"reading {scheme}:// needs the package {package}, which no extra of w2v installs") from None
    except ValueError as e:
        raise ShardError(f"{scheme}://: {e}") from e
    if scheme in ("s3", "s3a"):
        found.retries = 1
    return found


def _file_system(url: str) -> Any:
    return _opened(urlsplit(url).scheme, os.getpid())


def _asked(ask: Callable[[], Any]) -> Any:
    """Call fsspec, and sort its errors: those that will stay, and those that may pass."""
    try:
        return ask()
    except (W2vError, MemoryError):
        raise
    except FileNotFoundError:
        raise _FinalError("there is no such file") from None
    except PermissionError:
        raise _FinalError("access denied") from None
    except OSError:
        raise
    except Exception as e:  # every package has errors of its own: botocore, aiohttp, google
        kind = type(e).__name__
        if "Credential" in kind or "Forbidden" in str(e)[:200]:
            raise _FinalError(f"no credentials that the server takes ({kind})") from None
        raise OSError(None, _reason(e)) from e


def _reason(error: Any) -> str:
    """Return an error in a few words, without an address in it."""
    if isinstance(error, TimeoutError):
        return f"nothing came for {SILENCE:g} s"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    words = [shown(word) for word in str(text).split()]
    return " ".join(words)[:200]


def list_below(url: str) -> list[str]:
    """Return the files below an address, relative to it.

    Raises:
        ShardError: they cannot be listed; no server of `https://` lists its files.
    """
    if _is_http(url):
        raise ShardError(f"{shown(url)}: no files are listed there; name the shards: train-{{000000..000009}}.tar")
    found = list[str]()
    RemoteFile(url).ask(lambda: found.extend(_asked(partial(_file_system(url).find, url))))
    start = urlsplit(url).netloc + urlsplit(url).path.rstrip("/")
    return [path.split("://")[-1].lstrip("/").removeprefix(start.lstrip("/")).lstrip("/") for path in found]
