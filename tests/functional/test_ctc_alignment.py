"""Forced alignment against recorded paths of torchaudio, a search over all paths, and an hour of labels."""

from __future__ import annotations

import doctest
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import w2v
from w2v.errors import DataError
from w2v.functional import ctc_alignment, ctc_viterbi
from w2v.functional.ctc_alignment import (
    CtcAlignment,
    forced_align,
    forced_align_batch,
    min_window_score,
    with_star,
)
from w2v.functional.ctc_path import best_paths, token_confidences, token_ends


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(golden / "people/forced_align.pt", weights_only=True)
    return loaded


def assert_same(found: CtcAlignment, case: dict[str, Any]) -> None:
    np.testing.assert_array_equal(found.path, case["path"].numpy())
    np.testing.assert_allclose(found.scores, case["scores"].numpy(), atol=1e-6)
    assert found.total == pytest.approx(float(case["total"]), rel=1e-5)
    spans = np.stack([found.labels, found.starts, found.ends], axis=1).reshape(-1, 3)
    np.testing.assert_array_equal(spans, case["spans"].numpy())


@pytest.mark.parametrize("small", [1 << 22, 0, 300])
def test_recorded_paths_and_scores(recorded: dict[str, Any], small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """P13: also where the trellis is computed in blocks, which long input needs."""
    monkeypatch.setattr(ctc_viterbi, "SMALL", small)
    compared = 0
    for case in recorded["cases"]:
        if "error" in case or case.get("lossy"):
            continue
        found = forced_align(case["log_probs"], case["targets"], case["blank"])
        assert found.total == pytest.approx(float(case["best_total"]), rel=1e-5), case["name"]
        if not case.get("ties"):
            assert_same(found, case)
            np.testing.assert_allclose(found.log_probs, case["span_logprob"].numpy(), atol=1e-5)
            np.testing.assert_allclose(found.confidences, case["span_prob"].numpy(), atol=1e-5)
        assert found.labels.tolist() == case["targets"].tolist()
        compared += 1
    assert compared >= 20


def test_what_cannot_be_aligned_is_refused_with_numbers(recorded: dict[str, Any]) -> None:
    """P15."""
    cases = {case["name"]: case for case in recorded["cases"]}
    for case in cases.values():
        if "error" not in case:
            continue
        labels = case["targets"].tolist()
        repeats = sum(a == b for a, b in itertools.pairwise(labels))
        with pytest.raises(DataError) as caught:
            forced_align(case["log_probs"], labels, case["blank"])
        numbers = (len(case["log_probs"]), len(labels), repeats, len(labels) + repeats)
        assert re.findall(r"\d+", str(caught.value)) == [str(number) for number in numbers]
    lossy = cases["label_impossible"]
    with pytest.raises(DataError, match=r"label \d+ at place \d+ has probability 0 in all 12 frames"):
        forced_align(lossy["log_probs"], lossy["targets"])


def test_a_batch_in_one_call(recorded: dict[str, Any]) -> None:
    """P13: frames and labels of padding are not read."""
    batch = recorded["batch"]
    found = forced_align_batch(
        batch["log_probs"], batch["targets"], batch["input_lengths"], batch["target_lengths"], batch["blank"]
    )
    assert len(found) == len(batch["rows"])
    for alignment, row in zip(found, batch["rows"], strict=True):
        assert_same(alignment, row)
    targets = batch["targets"].clone()
    targets[2, 0] = 99
    with pytest.raises(DataError, match=r"row 2 of the batch: .* got 99 at place 0"):
        forced_align_batch(batch["log_probs"], targets, batch["input_lengths"], batch["target_lengths"])
    with pytest.raises(DataError, match=r"input_lengths must lie in 0 \.\. 40"):
        forced_align_batch(batch["log_probs"], batch["targets"], [40, 41, 40, 40], batch["target_lengths"])
    with pytest.raises(DataError, match=r"needs log_probs \(B, T, V\)"):
        forced_align_batch(batch["log_probs"], batch["targets"], [40], batch["target_lengths"])


def test_emissions_of_the_decoder_tests(recorded: dict[str, Any], golden: Path) -> None:
    path = golden / "decoder/runs_head_silence_is_bar.pt"
    if not path.exists():
        pytest.skip(f"no {path}")
    emissions = torch.load(path, weights_only=True)["emissions"]
    for row, case in zip(emissions, recorded["decoder_emissions"], strict=True):
        scores = torch.as_tensor(row)[: len(case["path"])].float()
        found = forced_align(scores, case["targets"])
        assert_same(found, case)


def paths(frames: int, labels: list[int], blank: int) -> list[tuple[int, ...]]:
    """All symbol sequences of `frames` frames that collapse to `labels`."""
    symbols = sorted({blank, *labels})
    found = []
    for path in itertools.product(symbols, repeat=frames):
        runs = [symbol for symbol, _ in itertools.groupby(path)]
        if [symbol for symbol in runs if symbol != blank] == labels:
            found.append(path)
    return found


@pytest.mark.parametrize("small", [1 << 22, 0])
def test_no_other_path_is_better(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By enumeration, with impossible values, and any place of the blank."""
    monkeypatch.setattr(ctc_viterbi, "SMALL", small)
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        frames, blank = int(random.integers(1, 8)), int(random.integers(0, 4))
        others = [symbol for symbol in range(4) if symbol != blank]
        labels = random.choice(others, size=int(random.integers(0, 4))).tolist()
        scores = random.normal(size=(frames, 4)) * 3
        scores[random.random(scores.shape) < 0.15] = -np.inf
        best = max((scores[np.arange(frames), path].sum() for path in paths(frames, labels, blank)), default=-np.inf)
        if best == -np.inf:
            refused += 1
            with pytest.raises(DataError):
                forced_align(scores, labels, blank)
            continue
        found = forced_align(scores, labels, blank)
        assert found.total == pytest.approx(best, abs=1e-9)
        assert tuple(found.path.tolist()) in paths(frames, labels, blank)
    assert 10 < refused < 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_number_formats_and_memory_layouts(dtype: torch.dtype) -> None:
    """P13, P22: torch or numpy, any float type, any strides: the same as in float64."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(9, 70, generator=generator).log_softmax(0).to(dtype).t()
    labels = [3, 3, 8, 1, 5]
    expected = forced_align(scores.double().contiguous().numpy(), labels)
    found = forced_align(scores, torch.tensor(labels, dtype=torch.int32))
    np.testing.assert_array_equal(found.path, expected.path)
    assert found.total == pytest.approx(expected.total, rel=1e-6)
    if dtype != torch.bfloat16:
        assert forced_align(scores.numpy(), np.array(labels)).path.tolist() == expected.path.tolist()
    # Padding the vocabulary or reversing time changes nothing but the order.
    back = forced_align(scores.flip(0), labels[::-1])
    assert back.total == pytest.approx(expected.total, rel=1e-6)


def test_an_empty_text_is_all_blank() -> None:
    scores = np.log(np.full((4, 3), 1 / 3))
    found = forced_align(scores, [], 1)
    assert found.path.tolist() == [1] * 4
    assert (len(found.starts), len(found.confidences), found.total) == (0, 0, pytest.approx(4 * np.log(1 / 3)))
    assert forced_align(scores[:0], []).path.tolist() == []


@pytest.mark.parametrize(
    ("change", "labels", "blank", "message"),
    [
        ({}, [1, -1], 0, "got -1 at place 1"),
        ({}, [1, 5], 0, r"columns in 0 \.\. 4 and not the blank 0, got 5"),
        ({}, [0], 0, "not the blank 0, got 0 at place 0"),
        ({}, [1], 5, r"blank must be a column in 0 \.\. 4, got 5"),
        ({(3, 2): np.nan}, [1], 0, "got NaN in frame 3, column 2"),
        ({(4, 0): np.inf}, [1], 0, r"got \+inf in frame 4, column 0"),
        ({}, [0.5], 0, "whole numbers"),
        ({}, [[1]], 0, r"shape \(L,\)"),
    ],
)
def test_refusals(change: dict[tuple[int, int], float], labels: list[Any], blank: int, message: str) -> None:
    """P15: faults that torchaudio takes without complaint are named."""
    scores = np.zeros((8, 5), dtype=np.float32)
    for place, value in change.items():
        scores[place] = value
    with pytest.raises(DataError, match=message):
        forced_align(scores, labels, blank)
    with pytest.raises(DataError, match="floating-point"):
        forced_align(np.zeros((8, 5), dtype=np.int64), [1])
    with pytest.raises(DataError, match=r"shape \(T, V\)"):
        forced_align(np.zeros((1, 8, 5)), [1])


def test_labels_in_an_impossible_order() -> None:
    scores = np.zeros((6, 3))
    scores[3:, 1] = scores[:3, 2] = -np.inf
    assert forced_align(scores, [1, 2]).total == 0
    with pytest.raises(DataError, match="each path through the 2 labels has probability 0"):
        forced_align(scores, [2, 1])


def test_stars_are_columns(recorded: dict[str, Any]) -> None:
    """P17: the recorded columns are what `with_star` makes, and the star keeps its frames as a symbol of its own."""
    cases = {case["name"]: case for case in recorded["cases"] if "star" in case}
    assert len(cases) >= 5
    for name, case in cases.items():
        kind = name.split("_")[1]
        made = with_star(case["log_probs"][:, : case["star"]], kind, case["blank"])
        np.testing.assert_array_equal(made, case["log_probs"].numpy())
        found = forced_align(made, case["targets"])
        assert_same(found, case)
        # What is known of the transcript lies within 2 frames of where it was made from.
        true = case["true_path"].numpy()
        begins = np.flatnonzero((true != 0) & (true != np.concatenate([[0], true[:-1]])))
        if "all_targets" in case and len(begins) == len(case["all_targets"]):
            everything, known = case["all_targets"].tolist(), found.labels.tolist()
            if "middle" in name:
                place = known.index(case["star"])
                rest = [*range(place), *range(len(everything) - (len(known) - place - 1), len(everything))]
            else:
                rest = list(range(10, len(everything) - 10))
            own = [start for start, label in zip(found.starts, known, strict=True) if label != case["star"]]
            errors = np.abs(np.array(own) - begins[rest])
            assert np.mean(errors <= 2) >= 0.95
    with pytest.raises(DataError, match="zero, max, got 'min'"):
        with_star(np.zeros((2, 2)), "min")


def test_a_star_of_the_best_symbol_knows_its_blank() -> None:
    scores = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    np.testing.assert_allclose(np.exp(with_star(scores, "max", 0)[:, 3]), [0.3, 0.7])
    np.testing.assert_allclose(np.exp(with_star(scores, "max", 2)[:, 3]), [0.5, 0.2])
    assert with_star(torch.from_numpy(scores).half(), "zero").dtype == np.float32


def test_words_that_were_not_said_are_told(recorded: dict[str, Any]) -> None:
    """P18."""
    case = next(case for case in recorded["cases"] if case["name"] == "words_not_said")
    found = forced_align(case["log_probs"], case["targets"])
    first, last = (int(place) for place in case["extra"])
    extra = np.arange(first, last)
    assert found.confidences[extra].max() < 0.1
    assert np.delete(found.confidences, extra).mean() > 0.6


HOUR = """
import resource, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from make_inputs import digest, hour
from w2v.functional.ctc_alignment import forced_align
emissions, labels, _ = hour()
expected = np.load(sys.argv[1] + "/hour.npz")
assert digest(emissions) == str(expected["sha_emissions"])
assert digest(labels.astype(np.int64)) == str(expected["sha_labels"])
forced_align(emissions[:400], labels[:100])
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
found = forced_align(emissions, labels)
print(time.process_time() - begin, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
print(found.total, expected["total"])
print((found.starts == np.cumsum(expected["start"])).mean(), (found.ends - found.starts == expected["length"]).mean())
"""


@pytest.mark.slow
def test_an_hour(golden: Path) -> None:
    """P14: the only best path, by 50,000 labels and 180,730 frames, in time and memory on one core."""
    folder = golden / "people/make_inputs.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(w2v.__file__).parents[1])}
    command = [sys.executable, "-c", HOUR, str(folder.parent)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (seconds, memory), (total, expected), right = (map(float, line.split()) for line in ran.stdout.splitlines())
    assert total == pytest.approx(expected, rel=1e-9)
    assert list(right) == [1.0, 1.0]
    assert seconds <= 60
    assert memory <= 300e6


def test_scores_of_ctc_segmentation(golden: Path) -> None:
    """P19: its score, from its own frames and probabilities."""
    recorded = torch.load(golden / "people/ctc_segmentation.pt", weights_only=True)
    step = recorded["index_duration"]
    for run in recorded["runs"].values():
        values = run["char_probs"].numpy()
        window = recorded["defaults"]["score_min_mean_over_L"]
        for start, end, score in run["segments"].tolist():
            frames = values[round(start / step) : round(end / step)]
            assert min(0.0, min_window_score(frames, window)) == pytest.approx(score, abs=1e-6)
    assert min_window_score([]) == -1e10
    assert min_window_score([-1.0, -3.0]) == -2.0


def test_the_best_path_aligned_with_its_own_symbols() -> None:
    """Word times of `w2v-infer --ctm` and of an alignment are one: the same frames, the same confidence."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        scores = (3 * torch.randn(80, 6, generator=generator)).log_softmax(-1)
        (path,) = best_paths(scores[None], torch.tensor([80]))
        ends = token_ends(scores.numpy(), path.tokens, path.timesteps)
        found = forced_align(scores, path.tokens)
        assert found.total == pytest.approx(path.score)
        assert (found.starts.tolist(), found.ends.tolist()) == (path.timesteps, ends)
        sure = token_confidences(scores.numpy(), path.tokens, path.timesteps, ends)
        np.testing.assert_allclose(found.confidences, sure)
        expected = [
            scores[a:b, token].exp().mean() for token, a, b in zip(path.tokens, path.timesteps, ends, strict=True)
        ]
        np.testing.assert_allclose(sure, expected, rtol=1e-5)


def test_the_example_in_the_documentation() -> None:
    assert doctest.testmod(ctc_alignment).failed == 0
