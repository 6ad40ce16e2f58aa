"""k-means over frames, and its file: centroids as numbers, and what they were made from.

A file is an npz of plain arrays. The original keeps a pickle of scikit-learn's object, which runs code when opened.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.array_types import IntArray
from w2v.errors import DataError, MissingPackageError
from w2v.files import atomic_path

BLOCK = 1 << 14  # frames at once: 65 MB of distances to 500 centroids


@dataclass(frozen=True)
class Clustering:
    """Centroids of frames.

    Attributes:
        centroids: (K, C) float32.
        about: plain values: `features` (mfcc, or which layer of which model), `label_rate`, how they were fitted.
    """

    centroids: npt.NDArray[np.float32]
    about: dict[str, Any]

    @property
    def digest(self) -> str:
        """A short text that differs where the centroids do: classes of another clustering mean other things."""
        return hashlib.blake2b(np.ascontiguousarray(self.centroids).data, digest_size=8).hexdigest()

    def classes(self, frames: npt.NDArray[np.float32]) -> IntArray:
        """Return (T,) int64, the nearest centroid of each of (T, C) frames, the first of equal ones; in float64.

        Raises:
            DataError: frames have another width.
        """
        centroids = self.centroids.astype(np.float64)
        if frames.shape[1] != centroids.shape[1]:
            raise DataError(f"frames have {frames.shape[1]} values, the centroids {centroids.shape[1]}")
        found = np.empty(len(frames), dtype=np.int64)
        lengths = np.square(centroids).sum(axis=1)
        for start in range(0, len(frames), BLOCK):
            # |x - c|^2 without |x|^2, which is the same for all. (T, C) x (C, K)
            block = frames[start : start + BLOCK].astype(np.float64)
            found[start : start + BLOCK] = (lengths - 2 * (block @ centroids.T)).argmin(axis=1)
        return found

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        try:
            with atomic_path(path) as part, open(part, "wb") as file:
                np.savez(file, centroids=self.centroids, about=np.array(json.dumps(self.about)))
        except OSError as e:
            raise DataError(f"cannot write {path}: {e.strerror or e}") from e


def load_clustering(path: Path) -> Clustering:
    """Read what `Clustering.save` wrote; runs no code.

    Raises:
        DataError: the file cannot be read, or is another one.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            centroids = np.asarray(content["centroids"], dtype=np.float32)
            about = json.loads(str(content["about"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise DataError(f"{path}: is no file of centroids of w2v-kmeans: {e}") from e
    if centroids.ndim != 2 or not isinstance(about, dict):
        raise DataError(f"{path}: is no file of centroids of w2v-kmeans")
    return Clustering(centroids, about)


def fit_kmeans(
    frames: npt.NDArray[np.float32],
    num_classes: int,
    *,
    rng: np.random.RandomState,
    num_starts: int = 20,
    max_iter: int = 100,
    batch_size: int = 10_000,
    tol: float = 0.0,
    max_no_improvement: int = 100,
    reassignment_ratio: float = 0.0,
) -> tuple[npt.NDArray[np.float32], int]:
    """Fit scikit-learn's MiniBatchKMeans with the original's settings.

    Args:
        frames: (N, C) float32.
        num_classes: K.
        rng: the generator that drew the sample, in the state after that, as the original's global one is.
        num_starts: `n_init`, starts of which the best is taken.
        max_iter, batch_size, tol, max_no_improvement, reassignment_ratio: scikit-learn's.

    Returns:
        (K, C) centroids, and the steps that were made.

    Raises:
        DataError: there are fewer frames than classes.
        MissingPackageError: scikit-learn is not installed.
    """
    if len(frames) < num_classes:
        raise DataError(f"-K {num_classes} needs at least as many frames, got {len(frames)}")
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as e:
        raise MissingPackageError("scikit-learn", "kmeans", "w2v-kmeans") from e
    model = MiniBatchKMeans(
        n_clusters=num_classes,
        init="k-means++",
        max_iter=max_iter,
        batch_size=batch_size,
        tol=tol,
        max_no_improvement=max_no_improvement,
        n_init=num_starts,
        reassignment_ratio=reassignment_ratio,
        compute_labels=False,
        random_state=rng,
    )
    model.fit(frames)
    return np.asarray(model.cluster_centers_, dtype=np.float32), int(model.n_steps_)


def inertia(clustering: Clustering, frames: npt.NDArray[np.float32]) -> float:
    """Return the mean squared distance of (N, C) frames to their centroids."""
    total = 0.0
    for start in range(0, len(frames), BLOCK):
        block = frames[start : start + BLOCK]
        nearest: npt.NDArray[np.float64] = clustering.centroids[clustering.classes(block)].astype(np.float64)
        total += float(np.square(block - nearest).sum())
    return total / max(len(frames), 1)
