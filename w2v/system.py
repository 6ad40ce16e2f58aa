"""What operating systems differ in: signals, locks, limits and memory. Linux has all of it, macOS most, Windows little.

Everything here has an answer on each of them; nowhere else is a name used that one of them lacks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from types import ModuleType

try:
    import fcntl as _fcntl
    import resource as _resource
except ImportError:  # Windows
    fcntl: ModuleType | None = None
    resource: ModuleType | None = None
else:
    fcntl, resource = _fcntl, _resource


def _signals(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


ENDING_SIGNALS = _signals("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
"""Those that ask a run to save and leave."""
CHILD_ENDED = next(iter(_signals("SIGCHLD")), None)
HARMLESS = next(iter(_signals("SIGURG")), None) if hasattr(signal, "pthread_kill") else None
"""A signal that is ignored by default and can be sent to a thread; None where there is none."""
KILLED = -9  # exit code of a process that was killed (-SIGKILL)
# Windows opens everything at once, and hands no file to other programs.
OPEN_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0)
CLOSE_ON_EXEC: int = getattr(os, "O_CLOEXEC", 0)


_seeking = threading.Lock()


def read_at(file: int, size: int, offset: int) -> bytes:
    """Return up to `size` bytes of an open file from byte `offset` on; threads may share the file."""
    if hasattr(os, "pread"):
        return os.pread(file, size, offset)
    with _seeking:  # Windows goes to a place in one call, and reads in another
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, size)


def can_fork() -> bool:
    """Whether a process can be a copy of this one, with all that is loaded."""
    return "fork" in multiprocessing.get_all_start_methods()


def usable_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def forked_workers() -> int:
    """Return how many copies of this process fill the cores that it has; 0 where it cannot be copied.

    Ranks of one machine (`LOCAL_WORLD_SIZE`, as torchrun sets it) share its cores.
    """
    if not can_fork():
        return 0
    return max(usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def peak_memory() -> int | None:
    """Return the largest number of bytes that this process has held in memory; None where the system does not tell."""
    if resource is None:
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, the others kilobytes


def physical_memory() -> int | None:
    """Return the bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows; a name that is not known
        return None


def raise_open_files(wanted: int) -> int:
    """Return the limit on open files, raised towards what is wanted as far as this process may."""
    if resource is None:
        return wanted  # sockets and files are not counted together
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else int(soft)
    most = wanted if hard == resource.RLIM_INFINITY else min(int(hard), wanted)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return int(soft)
    return most
