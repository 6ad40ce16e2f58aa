"""Self-supervised learning of speech: wav2vec, vq-wav2vec and wav2vec 2.0, from raw audio to transcripts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from w2v.version import __version__

if TYPE_CHECKING:
    from w2v.inference.align import align as align
    from w2v.inference.frame_times import frame_times as frame_times
    from w2v.inference.live import LiveSession as LiveSession
    from w2v.inference.live_options import LiveOptions as LiveOptions
    from w2v.inference.load import load_language_model as load_language_model
    from w2v.inference.load import load_model as load_model
    from w2v.inference.recording import read_audio as read_audio
    from w2v.inference.transcribe import features as features
    from w2v.inference.transcribe import open_transcriber as open_transcriber
    from w2v.inference.transcribe import tokens as tokens
    from w2v.inference.transcribe import transcribe as transcribe
    from w2v.inference.transcribe import transcribe_segments as transcribe_segments

# Name -> the module that defines it, imported at first use: `import w2v` alone stays quick.
_FACE = {
    "align": "w2v.inference.align",
    "frame_times": "w2v.inference.frame_times",
    "LiveOptions": "w2v.inference.live_options",
    "LiveSession": "w2v.inference.live",
    "load_language_model": "w2v.inference.load",
    "load_model": "w2v.inference.load",
    "read_audio": "w2v.inference.recording",
    "features": "w2v.inference.transcribe",
    "open_transcriber": "w2v.inference.transcribe",
    "tokens": "w2v.inference.transcribe",
    "transcribe": "w2v.inference.transcribe",
    "transcribe_segments": "w2v.inference.transcribe",
}

__all__ = ["__version__", *_FACE]


def __getattr__(name: str) -> Any:
    if name in _FACE:
        return getattr(import_module(_FACE[name]), name)
    raise AttributeError(f"module 'w2v' has no attribute {name!r}")
