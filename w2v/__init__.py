"""Self-supervised learning of speech: wav2vec, vq-wav2vec and wav2vec 2.0, from raw audio to transcripts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from w2v.version import __version__

if TYPE_CHECKING:
    from w2v.inference.frame_times import frame_times as frame_times
    from w2v.inference.load import load_language_model as load_language_model
    from w2v.inference.load import load_model as load_model

# Name -> the module that defines it, imported at first use: `import w2v` alone stays quick.
_FACE = {
    "frame_times": "w2v.inference.frame_times",
    "load_language_model": "w2v.inference.load",
    "load_model": "w2v.inference.load",
}

__all__ = ["__version__", *_FACE]


def __getattr__(name: str) -> Any:
    if name in _FACE:
        return getattr(import_module(_FACE[name]), name)
    raise AttributeError(f"module 'w2v' has no attribute {name!r}")
