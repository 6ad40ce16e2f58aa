"""How a child process ends: with its parent, or with a message to it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from typing import Any

GRACE = 10.0  # seconds that a failed process waits to be ended by its parent
_parent: Any = None  # where a spawned process tells its parent why it ends


def report_to(parent: Any) -> None:
    """Name the connection on which this process tells its parent why it ends."""
    global _parent
    _parent = parent


def leave(message: str, code: int) -> None:
    """End this process at once, from whichever thread."""
    if _parent is None:
        os.write(2, f"error: {message}\n".encode())
    else:
        _parent.send((message, code))
        # The parent ends all processes now, this one too: were it gone before the others, they would complain in turn.
        time.sleep(GRACE)
    os._exit(code)


def end_with_parent() -> None:
    """Leave when the parent has been killed: nobody is left to tell this process, spawned or forked, to end."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
