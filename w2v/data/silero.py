"""Speech probabilities of silero-vad, through onnxruntime (extra `vad`).

The package's own code is never imported: that sets torch to one thread for the whole process. Only the file with the
sequence model is used, which reads many windows at once and gives what the streaming model gives.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.errors import MissingPackageError

Samples = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float32]

SAMPLE_RATE = 16000
WINDOW = 512  # samples: 32 ms
CONTEXT = 64  # samples before a window that the model sees again
MODEL = "silero_vad_16k_sequence.onnx"
MOST_WINDOWS = 512  # read at once: 16 s


def is_installed() -> bool:
    """Return whether silero-vad's model and onnxruntime are there; neither is imported."""
    return _model_file() is not None and find_spec("onnxruntime") is not None


class SileroModel:
    """Probability of speech in each window of 512 samples at 16 kHz, as sound comes in.

    Raises:
        MissingPackageError: silero-vad or onnxruntime is not installed.
    """

    window = WINDOW
    sample_rate = SAMPLE_RATE

    def __init__(self) -> None:
        self._session = _session()
        self._state = [np.zeros((1, 1, 128), np.float32) for _ in range(2)]
        self._context = np.zeros(CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: Samples) -> Probabilities:
        """Take (S,) samples in [-1, 1]; return the probabilities of the windows that are complete."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // WINDOW
        self._rest = samples[whole * WINDOW :].copy()
        parts = [
            self._run(samples[first * WINDOW : min(first + MOST_WINDOWS, whole) * WINDOW])
            for first in range(0, whole, MOST_WINDOWS)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def finish(self) -> Probabilities:
        """Return the probability of the last window, filled up with zeros, if one has begun."""
        return self.push(np.zeros(-len(self._rest) % WINDOW, np.float32))

    def _run(self, samples: Samples) -> Probabilities:
        windows = samples.reshape(-1, WINDOW)
        contexts = np.concatenate([self._context[None], windows[:-1, -CONTEXT:]])
        self._context = windows[-1, -CONTEXT:].copy()
        frames = np.concatenate([contexts, windows], axis=1)  # (N, 576)
        found = self._session.run(None, {"input": frames, "h": self._state[0], "c": self._state[1]})
        self._state = [found[1], found[2]]
        probabilities: Probabilities = found[0].reshape(-1)
        return probabilities


@lru_cache(maxsize=1)
def _session() -> Any:
    """Return the model, read once for all threads: a session may be run by many at once."""
    path = _model_file()
    if path is None:
        raise MissingPackageError("silero-vad (6.2.3 or later)", "vad", "--vad silero")
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingPackageError("onnxruntime", "vad", "--vad silero") from e
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the model is too small for more
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _model_file() -> Path | None:
    spec = find_spec("silero_vad")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "data" / MODEL
    return path if path.is_file() else None
