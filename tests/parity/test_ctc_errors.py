"""Error counts of validation against those that the original's CTC criterion logged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from w2v.data.dictionary import Dictionary
from w2v.functional.ctc_path import best_paths
from w2v.scoring import count_errors

KEYS = ("c_errors", "c_total", "w_errors", "wv_errors", "w_total")


@pytest.mark.parametrize("name", ["ctc_base", "ctc_large"])
@pytest.mark.parametrize("scores", ["encoder_out_TBV", "log_probs_TBV"])
def test_counts_and_greedy_paths(golden: Path, name: str, scores: str) -> None:
    recorded = torch.load(golden / f"{name}.pt", weights_only=True)
    dictionary = Dictionary.from_symbols(recorded["dict_symbols"])
    frames = recorded[scores].transpose(0, 1)
    lengths = recorded["input_lengths"]
    counts = count_errors(
        frames, lengths, recorded["target"], recorded["target_lengths"], dictionary, "letter"
    )  # fmt: skip
    for run in recorded["eval_criterion"].values():
        assert counts == {key: run["log"][key] for key in KEYS}
    paths = best_paths(frames, lengths, recorded["blank"])
    assert [path.tokens for path in paths] == [row["units"] for row in recorded["greedy"]]
    padded = best_paths(frames, torch.full_like(lengths, frames.shape[1]), recorded["blank"])
    assert [path.tokens for path in padded] == [
        row["units_if_padding_frames_are_decoded"] for row in recorded["greedy"]
    ]
