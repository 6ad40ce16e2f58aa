"""PCA against numpy's decomposition; t-SNE on clusters; too few and equal points."""

from __future__ import annotations

import numpy as np
import pytest

from w2v.inference.embedding import embed

pytest.importorskip("sklearn")


@pytest.fixture
def clusters() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 30)
    return (10 * rng.normal(size=(3, 12))[labels] + rng.normal(size=(90, 12))).astype(np.float32), labels


def test_pca_is_the_decomposition_of_the_centred_frames(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    frames, _ = clusters
    found = embed(frames, 1, with_tsne=False)
    u, s, _ = np.linalg.svd(frames.astype(np.float64) - frames.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.shares, (s**2 / (s**2).sum()), atol=1e-5)
    np.testing.assert_allclose(np.abs(found.pca), np.abs(u[:, :2] * s[:2]), atol=1e-3)
    assert found.tsne is None


def test_tsne_keeps_clusters_apart_and_repeats_for_equal_seeds(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = clusters
    found, again = embed(frames, 1), embed(frames, 1)
    assert found.tsne is not None
    np.testing.assert_array_equal(found.tsne, again.tsne)
    distance = np.linalg.norm(found.tsne[:, None] - found.tsne[None], axis=-1) + np.diag(np.full(90, np.inf))
    assert (labels[distance.argmin(axis=1)] == labels).all()


@pytest.mark.parametrize(("count", "perplexity"), [(5, 4 / 3), (50, 49 / 3), (91, 30), (200, 30)])
def test_perplexity_is_30_or_a_third_of_the_points(count: int, perplexity: float) -> None:
    found = embed(np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32), 1)
    assert found.tsne is not None
    assert found.note == f"t-SNE with perplexity {perplexity:.3g}."


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_points_have_no_tsne_and_a_sentence_about_it(count: int) -> None:
    found = embed(np.random.default_rng(0).normal(size=(count, 7)).astype(np.float32), 1)
    assert found.tsne is None
    assert found.note.startswith("No t-SNE: ")
    assert found.pca.shape == (count, 2)
    assert np.isfinite(found.pca).all()
    assert np.isfinite(found.shares).all()


def test_equal_frames_lie_in_one_place() -> None:
    found = embed(np.ones((50, 3), np.float32), 1)
    assert found.note == "No t-SNE: all frames are equal."
    assert (found.pca == 0).all()


def test_frames_of_one_channel_lie_on_a_line() -> None:
    found = embed(np.arange(8, dtype=np.float32)[:, None], 1)
    assert (found.pca[:, 1] == 0).all()
    assert found.tsne is not None
