"""How the processes of a run find each other, whatever earlier ones have left behind."""

from __future__ import annotations

import socket
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from w2v.distributed.rendezvous import attempt, interface_towards, rendezvous_host, rendezvous_store


def meet(store: dist.Store, order: list[int]) -> set[str]:
    """Let ranks meet that arrive one after the other; return the names that they agree on."""
    names: dict[int, str] = {}

    def arrive(rank: int) -> None:
        names[rank] = attempt(store, rank, len(order))

    threads = [threading.Thread(target=arrive, args=(rank,), daemon=True) for rank in order]
    for thread in threads:
        thread.start()
        time.sleep(0.15)
    for thread in threads:
        thread.join(20)
    assert len(names) == len(order)
    return set(names.values())


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_every_attempt_has_a_name_of_its_own(order: list[int]) -> None:
    """Although the store still holds the cards of the attempt before, which an early rank 0 takes for the others'."""
    store = dist.HashStore()
    seen: set[str] = set()
    for _ in range(3):
        (name,) = meet(store, order)
        assert name not in seen
        seen.add(name)


def test_the_machine_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node7")
    assert rendezvous_host("tcp://gpu003:29500") == "gpu003"
    assert rendezvous_host("tcp://[fe80::1]:29500") == "fe80::1"
    assert rendezvous_host("env://") == "node7"


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are looked up on Linux only")
def test_the_interface_that_leads_to_a_machine() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("localhost") == "lo"
    assert interface_towards("no.such.machine.invalid") is None
    assert interface_towards("127.0.0.1") in [name for _, name in socket.if_nameindex()]


@pytest.mark.parametrize(
    ("port", "why"), [("", "there is no port; set MASTER_PORT"), ("x", "must be a number, got 'x'")]
)
def test_a_port_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, port: str, why: str) -> None:
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ValueError, match=why):
        rendezvous_store("env://", 1, 2, timedelta(seconds=1))
