"""Cosines and neighbours against brute force, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from w2v.functional import similarity
from w2v.functional.similarity import cosines, nearest_neighbours, same_label_share, unit_rows


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32)


@pytest.fixture
def clips() -> np.ndarray:
    return np.repeat(np.arange(6), 10)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_cosines_are_those_of_each_pair(frames: np.ndarray) -> None:
    found = cosines(frames[:5], frames)
    assert found.shape == (5, 60)
    expected = [[cosine(a, b) for b in frames.astype(np.float64)] for a in frames[:5].astype(np.float64)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_frame_of_zeros_is_like_no_other() -> None:
    frames = np.array([[0, 0], [3, 4]], np.float32)
    np.testing.assert_allclose(unit_rows(frames), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(cosines(frames, frames), [[0, 0], [0, 1]], atol=1e-6)


@pytest.mark.parametrize("rows_at_once", [7, 1024])
def test_neighbours_are_the_best_of_other_clips(
    frames: np.ndarray, clips: np.ndarray, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "ROWS_AT_ONCE", rows_at_once)
    places, values = nearest_neighbours(frames, clips, 3)
    for query in range(len(frames)):
        others = [other for other in range(len(frames)) if clips[other] != clips[query]]
        best = sorted(others, key=lambda other: -cosine(frames[query], frames[other]))[:3]
        assert places[query].tolist() == best
        np.testing.assert_allclose(values[query], [cosine(frames[query], frames[b]) for b in best], atol=1e-6)


def test_asking_for_some_frames_gives_their_rows(frames: np.ndarray, clips: np.ndarray) -> None:
    queries = np.array([59, 3, 17])
    places, values = nearest_neighbours(frames, clips, 4, queries)
    every_place, every_value = nearest_neighbours(frames, clips, 4)
    assert places.tolist() == every_place[queries].tolist()
    np.testing.assert_allclose(values, every_value[queries], atol=1e-6)


def test_frames_of_one_clip_have_no_neighbours(frames: np.ndarray) -> None:
    places, values = nearest_neighbours(frames, np.zeros(60, dtype=np.int64), 2)
    assert (places == -1).all()
    assert np.isnan(values).all()


def test_equal_cosines_keep_the_order_of_the_frames() -> None:
    places, _ = nearest_neighbours(np.ones((5, 2), np.float32), np.array([0, 1, 2, 3, 4]), 3)
    assert places.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]


def test_share_and_chance_are_those_of_counting(clips: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(-1, 4, 60)
    neighbours = np.array([rng.choice(np.flatnonzero(clips != clips[query])) for query in range(60)])
    share, chance = same_label_share(neighbours, labels, clips)
    asked = [q for q in range(60) if labels[q] >= 0 and labels[neighbours[q]] >= 0]
    assert share == pytest.approx(np.mean([labels[q] == labels[neighbours[q]] for q in asked]))
    expected = []
    for query in asked:
        others = [o for o in range(60) if clips[o] != clips[query] and labels[o] >= 0]
        expected.append(np.mean([labels[o] == labels[query] for o in others]))
    assert chance == pytest.approx(np.mean(expected))


def test_without_labels_or_neighbours_there_is_no_share() -> None:
    for neighbours, labels in (([1, 0], [-1, -1]), ([-1, -1], [0, 1])):
        share, chance = same_label_share(np.array(neighbours), np.array(labels), np.array([0, 1]))
        assert np.isnan([share, chance]).all()
