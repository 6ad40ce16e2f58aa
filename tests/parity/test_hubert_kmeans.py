"""MFCC and k-means against what the original's scripts recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.functional.mfcc import mfcc
from w2v.inference.clustering import Clustering, fit_kmeans, inertia


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(golden / "beyond/hubert.pt", weights_only=True)
    return content


@pytest.mark.parametrize("number", range(6))
def test_mfcc(recorded: dict[str, Any], number: int) -> None:
    clips = [clip.numpy() / np.float32(32768) for clip in recorded["labels"]["clips_int16"]]
    inputs = [*clips[:3], clips[0][:400], clips[0][:559], np.zeros(2000, dtype=np.float32)]
    expected = recorded["mfcc"]["features_T39"]
    assert len(expected) == len(inputs)
    found = mfcc(inputs[number])
    assert found.shape == expected[number].shape
    scale = float(expected[number].abs().max())
    np.testing.assert_allclose(found, expected[number].numpy(), rtol=0, atol=1e-4 * scale)


def sample(recorded: dict[str, Any], percent: float, rng: np.random.RandomState) -> np.ndarray:
    clips, parts = [clip.numpy() for clip in recorded["features"]], []
    first = 0
    for size in recorded["shards"]:
        shard = clips[first : first + size]
        first += size
        chosen = range(size) if percent < 0 else rng.choice(size, int(np.ceil(size * percent)), replace=False)
        parts += [shard[int(row)] for row in chosen]
    return np.concatenate(parts)


@pytest.mark.parametrize("number", range(3))
def test_kmeans(recorded: dict[str, Any], number: int) -> None:
    sklearn = pytest.importorskip("sklearn")
    kmeans = recorded["kmeans"]
    row = kmeans["rows"][number]
    rng = np.random.RandomState(row["seed"])
    frames = sample(kmeans, row["percent"], rng)
    assert len(frames) == row["frames_used"]
    np.testing.assert_array_equal(frames[:1], row["first_used_frame"].numpy())
    theirs = Clustering(row["centroids"].numpy(), {})
    for clip, labels in zip(kmeans["features"], row["labels"], strict=True):
        assert theirs.classes(clip.numpy()).tolist() == list(labels)
    assert inertia(theirs, frames) == pytest.approx(row["inertia_per_frame"], rel=1e-5)
    centroids, steps = fit_kmeans(frames, row["n_clusters"], rng=rng, num_starts=row["n_init"])
    if sklearn.__version__ == kmeans["scikit_learn"]:
        np.testing.assert_allclose(centroids, row["centroids"].numpy(), rtol=1e-4, atol=1e-4)
        assert steps == row["n_steps"]
    assert inertia(Clustering(centroids, {}), frames) == pytest.approx(row["inertia_per_frame"], rel=0.02)
