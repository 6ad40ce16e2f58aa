"""An HTTP server on this machine that hands out a folder, and fails in the ways that servers do."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Served:
    """What the server does, and what it was asked for.

    Attributes:
        folder: what it hands out.
        faults: what it does instead for the next requests: an HTTP code, `reset`, `short`, or `silent`.
        ranges: whether it knows ranges.
        latency: seconds before each answer.
        rate: bytes per second over all connections; 0: no bound.
        requests: (path, range or None) of each request.
        url: of the folder.
    """

    folder: Path
    faults: deque[Any] = field(default_factory=deque)
    ranges: bool = True
    latency: float = 0.0
    rate: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    num_bytes: int = 0
    url: str = ""
    _free_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for_line(self, count: int) -> None:
        """Wait as long as the line takes for `count` bytes, behind those of other connections."""
        with self._lock:
            self.num_bytes += count
            if not self.rate:
                return
            self._free_at = max(self._free_at, time.monotonic()) + count / self.rate
            due = self._free_at
        time.sleep(max(due - time.monotonic(), 0))


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        served = self.served
        asked = self.headers.get("Range")
        served.requests.append((self.path, asked))
        time.sleep(served.latency)
        fault = served.faults.popleft() if served.faults else None
        path = served.folder / self.path.partition("?")[0].lstrip("/")
        if isinstance(fault, int) or not path.is_file():
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "") if served.ranges else None
        start, end = (int(match[1]), min(int(match[2]) + 1, size)) if match else (0, size)
        if start >= size:
            self.send_error(416)
            return
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            self._send(memoryview(file.read(end - start)), fault)

    def _send(self, content: memoryview, fault: Any) -> None:
        stop = len(content) // 2 if fault else len(content)
        for place in range(0, stop, 1 << 16):
            part = content[place : min(place + (1 << 16), stop)]
            self.served.wait_for_line(len(part))
            self.wfile.write(part)
        if fault == "silent":
            time.sleep(2)
        elif fault == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@contextmanager
def fault_server(folder: Path) -> Iterator[Served]:
    """Serve a folder on 127.0.0.1 at a free port."""
    served = Served(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    server.handle_error = lambda *args: None  # a client that has gone is no news
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
