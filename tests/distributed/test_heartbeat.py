"""Who notices what of the other ranks, over connections within one process."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, Queue
from typing import Any

import pytest

from w2v.distributed import heartbeat
from w2v.distributed.heartbeat import Heartbeat, accept_all, connect, listen
from w2v.errors import ConfigError

NAMES = ["rank 0", "rank 1", "rank 2"]
News = tuple[str, int]


class Ranks:
    """The ends of a star of three ranks; some are watched over, the others are bare sockets."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.ends = {rank: socket.socketpair() for rank in (1, 2)}  # of rank 0, of the other
        self.heard: dict[int, Queue[News]] = {}
        self.watching: dict[int, Heartbeat] = {}

    def watch(self, rank: int) -> Heartbeat:
        links = {r: ours for r, (ours, _) in self.ends.items()} if rank == 0 else {0: self.ends[rank][1]}
        said: Queue[News] = Queue()
        self.heard[rank] = said
        self.watching[rank] = Heartbeat(links, NAMES, self.timeout, lambda *news: said.put(news))
        return self.watching[rank]

    def news(self, rank: int) -> News:
        return self.heard[rank].get(timeout=20)


@pytest.fixture
def star() -> Iterator[Callable[[float], Ranks]]:
    made: list[Ranks] = []

    def make(timeout: float) -> Ranks:
        made.append(Ranks(timeout))
        return made[-1]

    yield make
    for ranks in made:
        for watching in ranks.watching.values():
            watching._close()
        for ends in ranks.ends.values():
            for end in ends:
                end.close()


def test_a_rank_that_dies_is_named_to_all(star: Any) -> None:
    ranks = star(60.0)
    ranks.watch(0)
    ranks.watch(1)
    begin = time.monotonic()
    ranks.ends[2][1].close()
    for rank in (0, 1):
        message, code = ranks.news(rank)
        assert message.startswith("rank 2 is gone")
        assert code == 3
    assert time.monotonic() - begin < 10


def test_the_death_of_rank_0_is_noticed_by_all(star: Any) -> None:
    ranks = star(60.0)
    ranks.watch(1)
    ranks.watch(2)
    for ours, _ in ranks.ends.values():
        ours.close()
    assert all(ranks.news(rank)[0].startswith("rank 0 is gone") for rank in (1, 2))


@pytest.mark.parametrize("silent", [0, 2])
def test_a_silent_rank_is_named(star: Any, silent: int) -> None:
    """Its connection stays open, as that of a stopped process does, or of one behind a cut network."""
    ranks = star(1.0)
    others = [rank for rank in (0, 1, 2) if rank != silent]
    for rank in others:
        ranks.watch(rank)
    for rank in others:
        message, code = ranks.news(rank)
        assert message.startswith(f"rank {silent} has not been heard of for 1 s (--heartbeat-timeout)")
        assert code == 3


def test_ranks_that_live_are_left_alone(star: Any) -> None:
    ranks = star(1.5)
    for rank in (0, 1, 2):
        ranks.watch(rank)
    time.sleep(4.0)
    for rank in (0, 1, 2):
        with pytest.raises(Empty):
            ranks.heard[rank].get_nowait()


def test_an_error_ends_the_others_with_its_line_and_code(star: Any) -> None:
    ranks = star(60.0)
    failing = ranks.watch(2)
    ranks.watch(0)
    ranks.watch(1)
    failing.fail("rank 2: --lr must be\nless", 2)
    assert ranks.news(0) == ranks.news(1) == ("rank 2: --lr must be\nless", 2)
    with pytest.raises(Empty):  # who fails has its own way out
        ranks.heard[2].get_nowait()


def test_nobody_is_judged_after_the_end(star: Any) -> None:
    ranks = star(60.0)
    ranks.watch(0).retire()
    ranks.ends[1][1].close()
    time.sleep(0.3)
    with pytest.raises(Empty):
        ranks.heard[0].get_nowait()


def test_who_was_held_up_itself_does_not_blame_others(star: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped, or that loaded something for minutes, has heard of nobody meanwhile."""
    ranks = star(60.0)
    now = [time.monotonic()]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    ranks.watch(0)
    time.sleep(0.5)
    now[0] += 600
    time.sleep(2.5)
    with pytest.raises(Empty):
        ranks.heard[0].get_nowait()


def meet(server: socket.socket, world_size: int, others: list[int]) -> dict[int, Any]:
    """Let rank 0 and `others` meet; return what each got: connections and names, or an error."""
    port, got = server.getsockname()[1], {}

    def come(rank: int) -> None:
        try:
            if rank == 0:
                got[rank] = accept_all(server, world_size, "secret", "zero", "WORLD_SIZE=5")
            else:
                got[rank] = connect("127.0.0.1", port, rank, "secret", f"number {rank}")
        except ConfigError as e:
            got[rank] = e

    threads = [threading.Thread(target=come, args=(rank,), daemon=True) for rank in (*others, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return got


def test_strangers_are_turned_away() -> None:
    with listen() as server:
        port = server.getsockname()[1]
        strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        strangers[0].sendall(b'{"rank": 1, "token": "guess", "name": "x"}\n')
        strangers[1].sendall(b"GET / HTTP/1.0\r\n\r\n")
        strangers[2].close()
        got = meet(server, 2, [1])
        (links, names), (link, same_names) = got[0], got[1]
        assert names == same_names == ["zero", "number 1"]
        assert links[1].getpeername()[1] == link[0].getsockname()[1]
        for end in (*link.values(), *links.values(), *strangers):
            end.close()


def test_missing_ranks_are_named_to_all(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """First in a line while they are waited for, then in the error."""
    monkeypatch.setattr(heartbeat, "RENDEZVOUS_TIMEOUT", 0.5)
    monkeypatch.setattr(heartbeat, "FIRST_REMINDER", 0.3)
    with listen() as server:
        got = meet(server, 5, [1, 3])
    expected = "ranks [2, 4] of 5 did not come within 0.5 s; their own output may say why"
    assert {rank: str(error) for rank, error in got.items()} == dict.fromkeys((0, 1, 3), expected)
    assert [record.getMessage() for record in caplog.records] == ["still waiting for ranks [2, 4] of 5: WORLD_SIZE=5"]


@pytest.mark.parametrize(("others", "fault"), [([1, 1], "rank 1 has come twice: number 1, and number 1"),
                                               ([1, 7], "number 7 has come as rank 7, of 3 ranks")])  # fmt: skip
def test_ranks_that_come_twice_or_are_too_many_are_refused(others: list[int], fault: str) -> None:
    """By rank 0, and so by all that have come."""
    with listen() as server:
        got = meet(server, 3, others)
    assert all(str(error).startswith(fault) for error in got.values()), got
    assert set(got) == {0, *others}


def test_a_rank_that_rank_0_had_not_accepted_yet_hears_the_fault() -> None:
    """Its connection would be reset when the port closes, which reads as a fault of the network."""
    with listen() as server:
        port, got = server.getsockname()[1], []
        wrong = socket.create_connection(("127.0.0.1", port))
        wrong.sendall(b'{"rank": 9, "token": "secret", "name": "number 9"}\n')

        def come() -> None:
            with pytest.raises(ConfigError) as error:
                connect("127.0.0.1", port, 1, "secret", "number 1")
            got.append(str(error.value))

        late = threading.Thread(target=come, daemon=True)
        late.start()
        time.sleep(0.2)  # it waits in the queue of the port, behind the other
        with pytest.raises(ConfigError, match="number 9 has come as rank 9, of 3 ranks"):
            accept_all(server, 3, "secret", "zero")
    late.join(5)
    assert got == ["number 9 has come as rank 9, of 3 ranks"]
    wrong.close()


def test_a_reset_says_that_rank_0_has_left() -> None:
    with listen() as server:

        def reset() -> None:
            link = server.accept()[0]
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()

        threading.Thread(target=reset, daemon=True).start()
        with pytest.raises(ConfigError, match=r"rank 0 at 127.0.0.1:\d+ has left before all ranks had come"):
            connect("127.0.0.1", server.getsockname()[1], 1, "secret", "one")


def test_a_wait_is_told_of_until_it_is_over(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(heartbeat, "FIRST_REMINDER", 0.1)
    monkeypatch.setattr(heartbeat, "REMINDER", 0.1)
    with heartbeat.reminding("rank 1 is still waiting for rank 0"):
        time.sleep(0.5)
    said = len(caplog.records)
    time.sleep(0.3)
    assert 2 <= said == len(caplog.records)


class Dog:
    """Stands for the watchdog of a process."""

    def __init__(self, *, asked: bool, stuck: bool) -> None:
        self.asked, self.stuck = asked, stuck

    def ask(self) -> None:
        self.asked = True


def test_rank_0_ends_all_when_all_wait_after_a_signal(star: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while one of them does not: it may be writing a checkpoint."""
    dog = Dog(asked=False, stuck=False)
    monkeypatch.setattr(heartbeat.watchdog, "current", dog)
    ranks = star(60.0)
    ranks.watch(0)
    ends = [ranks.ends[rank][1] for rank in (1, 2)]
    ends[0].sendall(b'{"state": "stuck"}\n')
    time.sleep(2.5)
    assert dog.asked  # told by the other rank
    dog.stuck = True
    time.sleep(2.5)
    with pytest.raises(Empty):
        ranks.heard[0].get_nowait()
    ends[1].sendall(b'{"state": "stuck"}\n')
    message, code = ranks.news(0)
    assert "a signal asked this run to end" in message
    assert code == 3
    assert b"a signal asked" in ends[1].recv(10_000)


def test_a_rank_0_that_is_gone_or_cannot_be_reached() -> None:
    with pytest.raises(ConfigError, match=r"rank 1 cannot reach rank 0 at 127.0.0.1:\d+: .*refused"):
        connect("127.0.0.1", 1, 1, "secret", "one")
    with listen() as server:
        threading.Thread(target=lambda: server.accept()[0].shutdown(socket.SHUT_RDWR), daemon=True).start()
        with pytest.raises(ConfigError, match=r"rank 0 at 127.0.0.1:\d+ has left before all ranks had come"):
            connect("127.0.0.1", server.getsockname()[1], 1, "secret", "one")
