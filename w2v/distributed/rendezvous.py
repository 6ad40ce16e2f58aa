"""Where the processes of a run meet, and what torch leaves to be done about it: stale addresses, wrong interfaces."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
PAUSE = 0.05  # seconds between two looks


def rendezvous_host(init_method: str | None) -> str:
    """Return the machine of rank 0."""
    return urlsplit(init_method or "").hostname or os.environ.get("MASTER_ADDR") or "127.0.0.1"


def interface_towards(host: str) -> str | None:
    """Return the network interface that leads to `host`, or is its own; None where that cannot be found out.

    Left to itself, gloo looks up this machine's name, which often leads to 127.0.1.1 or nowhere.
    """
    if sys.platform != "linux":
        return None
    import fcntl

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        ours = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode())
                if fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24] == ours:
                    return name
    return None


def rendezvous_store(init_method: str, rank: int, world_size: int, timeout: timedelta) -> Store:
    """Return the store through which the ranks of this attempt find each other; rank 0 opens it, unless torchrun has.

    torchrun's lives as long as torchrun, so after a restart it still holds the addresses of the processes that are
    gone, and new ones that read them wait in vain (https://github.com/pytorch/pytorch/issues/135712). So each attempt
    has a part of it to itself. No variable tells the attempts apart: restarts are counted by each machine for itself.

    Raises:
        RuntimeError: it cannot be opened, or not be reached in time.
        ValueError: the address lacks something.
    """
    from torch.distributed import TCPStore, rendezvous  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import PrefixStore

    address = urlsplit(init_method)
    if address.scheme == "file":
        store: Store = next(rendezvous(init_method, rank, world_size, timeout=timeout))[0]
        return store
    by_torchrun = address.scheme == "env" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    text = os.environ.get("MASTER_PORT", "").strip() or "0"
    if not text.isdigit():
        raise ValueError(f"the environment's MASTER_PORT must be a number, got {text!r}")
    port = address.port or int(text)
    if not port:
        raise ValueError("there is no port; set MASTER_PORT")
    # Not torch's own way to open it, which waits for all ranks and cannot say which ones are missing.
    store = TCPStore(
        rendezvous_host(init_method), port, is_master=rank == 0 and not by_torchrun, timeout=timeout,
        wait_for_workers=False,
    )  # fmt: skip
    return PrefixStore(attempt(store, rank, world_size), store) if by_torchrun else store


def attempt(store: Store, rank: int, world_size: int) -> str:
    """Agree with the other ranks on a name for this attempt, through a store in which earlier ones have left theirs.

    Each rank shows a fresh card; rank 0 writes the name under each card that it sees, until all ranks have taken it.
    A card of an earlier attempt gets a name that nobody takes.
    """
    card = secrets.token_hex(8)
    store.set(f"w2v/card/{rank}", card)
    if rank > 0:
        name: str = store.get(f"w2v/name/{card}").decode()  # waits
        store.set(f"w2v/taken/{name}/{rank}", "1")
        return name
    missing = set(range(1, world_size))
    while missing:
        for other in sorted(missing):
            theirs = store.get(f"w2v/card/{other}").decode()
            store.set(f"w2v/name/{theirs}", card)
            if store.check([f"w2v/taken/{card}/{other}"]):
                missing.remove(other)
        time.sleep(PAUSE)
    return card
