"""Ends of symbols against the runs of a best path and against a search over all places."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from w2v.functional.ctc_path import best_paths, token_confidences, token_ends


def emissions(frames: int, symbols: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(frames, symbols, generator=generator)).log_softmax(-1).numpy()


def test_the_best_path_gets_its_own_runs() -> None:
    for seed in range(20):
        scores = emissions(60, 4, seed)
        path = best_paths(torch.from_numpy(scores)[None], torch.tensor([60]))[0]
        runs, place = [], 0
        for symbol, group in itertools.groupby(scores.argmax(1).tolist()):
            place += len(list(group))
            if symbol:
                runs.append(place)
        assert token_ends(scores, path.tokens, path.timesteps) == runs


def test_a_symbol_ends_where_the_path_is_most_likely() -> None:
    for seed in range(20):
        scores = emissions(9, 3, seed)
        tokens, starts = [2, 1], [1, 5]
        best, expected = -math.inf, None
        for ends in itertools.product(range(2, 6), range(6, 10)):
            path = [0, *[2] * (ends[0] - 1), *[0] * (5 - ends[0]), *[1] * (ends[1] - 5), *[0] * (9 - ends[1])]
            total = float(scores[np.arange(9), path].sum())
            if total > best:
                best, expected = total, list(ends)
        assert token_ends(scores, tokens, starts) == expected


def test_confidence_is_the_mean_over_the_symbols_own_frames() -> None:
    probabilities = np.full((6, 3), 1 / 3)
    probabilities[:, 1] = [0.9, 0.2, 0.5, 0.7, 0.95, 0.1]
    found = token_confidences(np.log(probabilities).astype(np.float32), [1], [1], [4])
    np.testing.assert_allclose(found, [1.4 / 3], rtol=1e-6)
    assert token_ends(np.zeros((0, 3), dtype=np.float32), [], []) == []
