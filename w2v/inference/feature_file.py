"""Files that hold the frames of one clip: the original's `.h5context`, `.npy` and `.safetensors`.

Each appears whole or not at all, so a program that is killed can resume where it stopped.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.errors import DataError, MissingPackageError
from w2v.files import write_atomically

Frames = npt.NDArray[np.float32]

# What numpy, safetensors and h5py make of a damaged header.
_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    TokenError,
    EOFError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


def write_features(path: Path, features: Frames, frame_rate: float, kind: str) -> None:
    """Write the frames of a clip.

    Args:
        path: the file, with the suffix of its kind (`SUFFIXES`).
        features: (T, C) float32.
        frame_rate: frames per second.
        kind: `h5`, `npy` or `safetensors`.

    Raises:
        DataError: the file cannot be written.
        MissingPackageError: h5py is needed and not installed.
    """
    write_atomically(path, _WRITERS[kind](np.ascontiguousarray(features, dtype=np.float32), frame_rate))


def read_features(path: str | Path) -> Frames:
    """Read (T, C) float32 frames, in the format that the suffix names.

    Raises:
        DataError: the file cannot be read, or its suffix is unknown.
        MissingPackageError: h5py is needed and not installed.
    """
    path = Path(path)
    kind = next((kind for kind, suffix in SUFFIXES.items() if suffix == path.suffix), None)
    if kind is None:
        raise DataError(f"{path}: the suffix must be one of {', '.join(SUFFIXES.values())}")
    try:
        return _READERS[kind](path.read_bytes())
    except (*_DAMAGE, OSError) as e:
        raise DataError(f"{path}: cannot be read as {kind}: {e}") from e


def _write_h5(features: Frames, frame_rate: float) -> bytes:
    """Return the original's layout: `features` flat, frame after frame; `info` holds frame rate, frames, channels."""
    h5py = _h5py()
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5.create_dataset("features", data=features.reshape(-1))
        h5.create_dataset("info", data=np.array([frame_rate, *features.shape], dtype=np.float64))
    return file.getvalue()


def _read_h5(content: bytes) -> Frames:
    with _h5py().File(io.BytesIO(content), "r") as h5:
        _, num_frames, channels = h5["info"][()].astype(int)
        features: Frames = h5["features"][()].reshape(num_frames, channels)
    return features


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as e:
        raise MissingPackageError("h5py", "h5", "--format h5") from e
    return h5py


def _write_npy(features: Frames, frame_rate: float) -> bytes:
    file = io.BytesIO()
    np.save(file, features, allow_pickle=False)
    return file.getvalue()


def _read_npy(content: bytes) -> Frames:
    features: Frames = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return features


def _write_safetensors(features: Frames, frame_rate: float) -> bytes:
    from safetensors.numpy import save

    return save({"features": features}, {"frame_rate": f"{frame_rate:g}"})


def _read_safetensors(content: bytes) -> Frames:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        features: Frames = load(content)["features"]
    except SafetensorError as e:
        raise ValueError(str(e)) from e
    if features.dtype != np.float32:
        raise ValueError(f"its numbers are {features.dtype}, not float32")
    return features


SUFFIXES = {"h5": ".h5context", "npy": ".npy", "safetensors": ".safetensors"}
_WRITERS: dict[str, Callable[[Frames, float], bytes]] = {
    "h5": _write_h5,
    "npy": _write_npy,
    "safetensors": _write_safetensors,
}
_READERS: dict[str, Callable[[bytes], Frames]] = {
    "h5": _read_h5,
    "npy": _read_npy,
    "safetensors": _read_safetensors,
}
