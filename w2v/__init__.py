"""Self-supervised learning of speech: wav2vec, vq-wav2vec and wav2vec 2.0, from raw audio to transcripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2v.build import load_model as load_model

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Find `load_model` at its first use, so that `import w2v` stays quick."""
    if name == "load_model":
        from w2v.build import load_model

        return load_model
    raise AttributeError(f"module 'w2v' has no attribute {name!r}")
