"""Whether the other ranks have come and are alive. Every rank has a connection with rank 0; once a second both say so.

A rank that dies closes its connection; one that is stopped, or behind a cut network, falls silent. Rank 0 passes the
news on, and every process leaves with the reason, whatever its main thread is waiting for: collectives themselves
may wait for a dead peer for very long, and cannot tell which one it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from w2v.distributed import watchdog
from w2v.errors import ConfigError

logger = logging.getLogger(__name__)

BEAT = b"\n"
RENDEZVOUS_TIMEOUT = 600.0  # seconds that ranks may come later than others; as torchrun has it
FIRST_REMINDER = 10.0  # seconds until it is said which ranks are waited for
REMINDER = 60.0  # seconds between two such lines
FAREWELL = 2.0  # seconds that the news may take to be read
LOST = 3  # exit code, that of a TrainingError
LONGEST_LINE = 100_000

Leave = Callable[[str, int], Any]


def listen() -> socket.socket:
    """Return a server socket on a free port, for IPv6 as well where the machine knows it."""
    with contextlib.suppress(OSError, ValueError):
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def accept_all(
    server: socket.socket, world_size: int, token: str, name: str, source: str = ""
) -> tuple[dict[int, socket.socket], list[str]]:
    """Wait for the connections of all ranks but 0; one that does not know `token` is turned away.

    Args:
        server: listens for them.
        world_size: number of ranks.
        token: what they got from the store.
        name: of rank 0.
        source: what says how many ranks there are, and what to do if they do not come.

    Returns:
        the connections by rank, and the names that the ranks have given.

    Raises:
        ConfigError: some did not come, or one came twice; those that have come are told so.
    """
    links: dict[int, socket.socket] = {}
    names, begin = {0: name}, time.monotonic()
    deadline, reminder = begin + RENDEZVOUS_TIMEOUT, begin + FIRST_REMINDER
    while missing := sorted(set(range(world_size)) - set(names)):
        server.settimeout(max(min(deadline, reminder) - time.monotonic(), 0.01))
        try:
            link, _ = server.accept()
        except TimeoutError as e:
            now = time.monotonic()
            if now < deadline:
                if now >= reminder:
                    reminder = now + REMINDER
                    logger.warning("still waiting for ranks %s of %d%s", missing, world_size, source and f": {source}")
                continue
            message = (
                f"ranks {missing} of {world_size} did not come within {RENDEZVOUS_TIMEOUT:g} s; "
                "their own output may say why"
            )
            _refuse(server, links.values(), message, others=len(links))
            raise ConfigError(message) from e
        try:
            link.settimeout(5.0)
            hello = json.loads(link.makefile("rb").readline(1000))
            if hello["token"] != token:
                raise ValueError("another token")
            rank, theirs = int(hello["rank"]), str(hello["name"])
        except (OSError, ValueError, KeyError, TypeError):
            link.close()
            continue
        fault = _fault(rank, theirs, names, world_size)
        if fault:
            _refuse(server, [*links.values(), link], fault, others=world_size - 1)
            raise ConfigError(fault)
        links[rank], names[rank] = link, theirs
    in_order = [names[rank] for rank in range(world_size)]
    _tell_all(links.values(), {"names": in_order})
    return links, in_order


def _fault(rank: int, name: str, names: Mapping[int, str], world_size: int) -> str:
    if rank in names:
        return (
            f"rank {rank} has come twice: {names[rank]}, and {name}; each process needs a RANK (or --distributed-rank) "
            "of its own"
        )
    if not 0 < rank < world_size:
        return f"{name} has come as rank {rank}, of {world_size} ranks"
    return ""


@contextlib.contextmanager
def reminding(text: str) -> Iterator[None]:
    """Log `text` after some seconds, and then every minute, for as long as the block takes."""
    done = threading.Event()

    def remind() -> None:
        pause = FIRST_REMINDER
        while not done.wait(pause):
            logger.warning("%s", text)
            pause = REMINDER

    threading.Thread(target=remind, daemon=True, name="reminder").start()
    try:
        yield
    finally:
        done.set()


def _tell_all(links: Iterable[socket.socket], message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    for link in links:
        with contextlib.suppress(OSError):  # who is gone is found out about when all have come
            link.sendall(line)


def _refuse(server: socket.socket, links: Collection[socket.socket], message: str, *, others: int) -> None:
    """Tell the ranks that have come why there will be no run, and those that come while `others` have not been told.

    A rank whose connection rank 0 had not accepted yet would otherwise see a reset, which blames the network.
    """
    _tell_all(links, {"message": message})
    told, deadline = len(links), time.monotonic() + FAREWELL
    while told < others:
        server.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            link, _ = server.accept()
        except OSError:
            return
        with link:
            link.settimeout(FAREWELL)
            with contextlib.suppress(OSError):  # its greeting: what is left unread when a socket closes resets it
                link.makefile("rb").readline(1000)
            _tell_all([link], {"message": message})
        told += 1


def connect(host: str, port: int, rank: int, token: str, name: str) -> tuple[dict[int, socket.socket], list[str]]:
    """Connect with rank 0, and wait until all ranks have; return the connection and the names of all.

    Raises:
        ConfigError: rank 0 cannot be reached, or has left; or other ranks did not come.
    """
    gone = f"rank 0 at {host}:{port} has left before all ranks had come"
    try:
        link = socket.create_connection((host, port), timeout=REMINDER)
        link.settimeout(2 * RENDEZVOUS_TIMEOUT)
        link.sendall(json.dumps({"rank": rank, "token": token, "name": name}).encode() + b"\n")
        # Without a buffer, which would keep what comes after the first line.
        answer = json.loads(link.makefile("rb", buffering=0).readline() or b"{}")
    except (ConnectionResetError, BrokenPipeError) as e:
        raise ConfigError(gone) from e
    except OSError as e:
        raise ConfigError(
            f"rank {rank} cannot reach rank 0 at {host}:{port}: {e}; the machines of a run must be able to reach each "
            "other at any port"
        ) from e
    if "names" not in answer:
        raise ConfigError(answer.get("message", gone))
    return {0: link}, answer["names"]


class _Link:
    """A connection with another rank."""

    def __init__(self, rank: int, link: socket.socket) -> None:
        self.rank = rank
        self.socket = link
        self.heard = time.monotonic()
        self.state = ""
        self._pending = b""

    def send(self, line: bytes) -> None:
        # Where the other side does not read, its silence will tell; where it is gone, the next read will.
        with contextlib.suppress(OSError):
            self.socket.send(line)

    def receive(self) -> list[bytes] | None:
        """Return the lines that have come; None: the other side is gone."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data or len(self._pending) > LONGEST_LINE:
            return None
        *lines, self._pending = (self._pending + data).split(b"\n")
        self.heard = time.monotonic()
        return [line for line in lines if line]


class Heartbeat:
    """Watches over the other ranks, in a thread.

    Args:
        links: connections by rank: one with rank 0, or those of rank 0.
        names: what to call the ranks in messages.
        timeout: seconds of silence after which a rank counts as lost.
        leave: called from the thread with a message and an exit code; must end the process.
    """

    def __init__(self, links: Mapping[int, socket.socket], names: Sequence[str], timeout: float, leave: Leave) -> None:
        self._names, self._timeout, self._leave = names, timeout, leave
        self._beat = min(1.0, timeout / 5)
        self._lock = threading.Lock()
        self._news: tuple[str, int] | None = None
        self._is_ours = self._is_over = False
        self._deadline = math.inf
        self._selector = selectors.DefaultSelector()
        self._links = [_Link(rank, link) for rank, link in links.items()]
        for link in self._links:
            link.socket.setblocking(False)
            self._selector.register(link.socket, selectors.EVENT_READ, link)
        # A loader's worker would keep a connection open after the death of its rank.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._close)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="heartbeat")
        self._thread.start()

    def retire(self) -> None:
        """Report no lost rank from now on; to be followed by a barrier, then by the end of the process."""
        self._is_over = True

    def fail(self, message: str, code: int) -> None:
        """Tell the other ranks why this one ends; they end with the same code."""
        self._spread(message, code, is_ours=True)
        self._thread.join(2 * FAREWELL)

    def await_news(self) -> None:
        """Give the thread time to find out who is lost; if it does, this does not return."""
        self._thread.join(self._timeout + 2 * FAREWELL)

    def _watch(self) -> None:
        looked, spoken = time.monotonic(), 0.0
        while self._links and time.monotonic() < self._deadline:
            ready = self._selector.select(self._beat)
            if self._is_over:
                return
            now = time.monotonic()
            if now - looked > self._timeout / 2:
                # We have been held up ourselves (stopped, or by a long call that lets no thread run), so others'
                # silence says nothing yet.
                for link in self._links:
                    link.heard = now
            looked = now
            for key, _ in ready:
                self._read(key.data)
            if now - spoken >= self._beat:
                spoken = now
                self._speak(now)
        if self._news is not None and not self._is_ours:
            self._leave(*self._news)

    def _read(self, link: _Link) -> None:
        lines = link.receive()
        if lines is None:
            self._drop(link)
            self._lose(link, "is gone: it was killed or has failed, of which its own output may say more")
            return
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                news = json.loads(line)
                if "state" in news:
                    link.state = str(news["state"])
                    continue
                self._drop(link)
                self._spread(str(news["message"]), int(news["code"]))

    def _speak(self, now: float) -> None:
        state = self._state()
        for link in list(self._links):
            link.send(json.dumps({"state": state}).encode() + BEAT if state else BEAT)
            if now - link.heard > self._timeout:
                self._drop(link)
                self._lose(
                    link,
                    f"has not been heard of for {self._timeout:g} s (--heartbeat-timeout): it has been stopped, or "
                    "its machine or the network to it is down",
                )

    def _state(self) -> str:
        """Return whether this rank has been asked to end, and waits; rank 0 ends all of them when all of them wait.

        One rank alone cannot tell a wait without an end from that for a slow update or a checkpoint of rank 0.
        """
        dog = watchdog.current
        if dog is None:
            return ""
        if any(link.state for link in self._links):
            dog.ask()
        is_first = all(link.rank for link in self._links)
        if is_first and dog.stuck and all(link.state == "stuck" for link in self._links):
            self._spread(watchdog.MESSAGE, LOST)
        return "stuck" if dog.stuck else "asked" if dog.asked else ""

    def _lose(self, link: _Link, what: str) -> None:
        again = "the same command resumes from the last checkpoint"
        self._spread(f"{self._names[link.rank]} {what}; {again}", LOST)

    def _spread(self, message: str, code: int, *, is_ours: bool = False) -> None:
        """Take note of the first news and tell everybody else; then there is nothing left but to be read."""
        with self._lock:
            if self._news is not None or self._is_over:
                return
            self._news, self._is_ours = (message, code), is_ours
            self._deadline = time.monotonic() + FAREWELL
        line = json.dumps({"message": message, "code": code}).encode() + b"\n"
        for link in list(self._links):
            link.send(line)

    def _drop(self, link: _Link) -> None:
        if link in self._links:
            self._links.remove(link)
            self._selector.unregister(link.socket)
            link.socket.close()

    def _close(self) -> None:
        self._is_over = True
        for link in self._links:
            link.socket.close()
