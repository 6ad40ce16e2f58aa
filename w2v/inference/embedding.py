"""Frames in a plane: principal components and t-SNE, by scikit-learn (extra `vis`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2v.errors import MissingPackageError

Floats = npt.NDArray[np.float32]
COMPONENTS = 50  # principal components that t-SNE reads: quicker, and noise is left out
MOST_POINTS = 2_000  # Barnes-Hut t-SNE of these takes 10 s
FEWEST_POINTS = 5
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Embedding:
    """Frames in a plane.

    Attributes:
        pca: (N, 2) places along the first two principal axes.
        shares: (K,) share of the variance along each axis, falling; all axes together hold 1.
        tsne: (N, 2) places by t-SNE; None where it was left out.
        note: why it was left out, in one sentence; else its perplexity.
    """

    pca: Floats
    shares: Floats
    tsne: Floats | None
    note: str


def embed(frames: Floats, seed: int, *, with_tsne: bool = True) -> Embedding:
    """Bring frames into a plane.

    Equal frames in equal order and an equal seed give equal places.

    Args:
        frames: (N, C), at least one.
        seed: of t-SNE.
        with_tsne: also by t-SNE, if there are enough frames.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as e:
        raise MissingPackageError("scikit-learn", "vis", "PCA and t-SNE") from e
    num_points = len(frames)
    spread = float(np.ptp(frames, axis=0).max(initial=0.0))
    if num_points < 2 or spread == 0:
        reason = "there is one frame" if num_points < 2 else "all frames are equal"
        return Embedding(np.zeros((num_points, 2), np.float32), np.zeros(1, np.float32), None, f"No t-SNE: {reason}.")
    # The full decomposition: exact, and without the random start of the quicker ones.
    pca = PCA(min(COMPONENTS, *frames.shape), svd_solver="full")
    components = pca.fit_transform(frames.astype(np.float64)).astype(np.float32)
    shares = pca.explained_variance_ratio_.astype(np.float32)
    plane = np.zeros((num_points, 2), np.float32)
    plane[:, : min(2, components.shape[1])] = components[:, :2]
    if not with_tsne:
        return Embedding(plane, shares, None, "")
    if num_points < FEWEST_POINTS:
        reason = f"{num_points} frames are too few; it needs {FEWEST_POINTS}"
        return Embedding(plane, shares, None, f"No t-SNE: {reason}.")
    if num_points > MOST_POINTS:
        raise ValueError(f"at most {MOST_POINTS} frames, got {num_points}")
    # With a perplexity near the number of points every point is everyone's neighbour, and the plane a ball.
    perplexity = min(PERPLEXITY, (num_points - 1) / 3)
    # PCA's axes as a start keep the large structure; their signs are fixed by scikit-learn.
    start = plane / plane[:, 0].std() * 1e-4
    tsne = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(components)
    return Embedding(plane, shares, tsne.astype(np.float32), f"t-SNE with perplexity {perplexity:.3g}.")
