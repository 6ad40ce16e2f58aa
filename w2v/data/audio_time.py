"""How much audio there is, for people."""

from __future__ import annotations


def audio_time(seconds: float) -> str:
    """Return `2.50 hours`, of less than an hour `7.5 minutes`, and of less than a minute `3.2 seconds`.

    So that a small set is told from an empty one.
    """
    if seconds >= 3600:
        return f"{seconds / 3600:.2f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"
