"""The errors that `w2v` raises on purpose.

Every message is one line that names the flag or `file:line`, the rule, and the value found. Programs print it
and leave with `exit_code`; a traceback therefore always means a fault of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_MESSAGE = 1000


class W2vError(Exception):
    """Base class of all errors that a user can put right.

    Line breaks in a message (in file names) are escaped, and the middle of a long one (a value of a whole file) is
    left out.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        line = message.replace("\n", "\\n").replace("\r", "\\r")
        super().__init__(line if len(line) <= LONGEST_MESSAGE else f"{line[:700]} ... {line[-250:]}")


class ConfigError(W2vError):
    """A flag or a configuration file holds a value that breaks a rule."""


class RegistryError(W2vError):
    """A name is unknown, or taken, in one of the registries."""


class DataError(W2vError):
    """A manifest, label file, dictionary or audio file cannot be used."""


class ShardError(W2vError):
    """A shard is out of reach, or is not the one that its manifest was written for. Its clips cannot be replaced."""

    exit_code = 3


class CheckpointError(W2vError):
    """A checkpoint is missing, damaged, or does not fit what was asked of it."""


class ArgumentError(W2vError, ValueError):
    """An argument of a function of the library breaks a rule."""


class MissingPackageError(W2vError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs the package {package}; install it with: pip install "w2v[{extra}]"')


class TrainingError(W2vError):
    """Training cannot continue (for instance: the loss scale fell below its minimum)."""

    exit_code = 3


def listed(items: Sequence[object], most: int = 5, separator: str = ", ") -> str:
    """Return the first `most` items for a message, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(map(str, items[:most])) + more
