"""A language model that the original trained gives the scores that the original's decoder recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from w2v.convert import read_model_file
from w2v.errors import CheckpointError
from w2v.inference.load import load_language_model, load_model
from w2v.lm.language_model import LanguageModel


def best_alignment(log_probs: Tensor, tokens: list[int]) -> float:
    """Return the score of the best path of CTC that spells `tokens`; symbol 0 is the blank."""
    states = [0, *(state for token in tokens for state in (token, 0))]
    score = np.full(len(states), -np.inf)
    score[:2] = 0.0
    skips = np.array([i > 1 and states[i] not in (0, states[i - 2]) for i in range(len(states))])
    for number, frame in enumerate(log_probs.numpy().astype(np.float64)):
        if number:
            one = np.concatenate([[-np.inf], score[:-1]])
            two = np.where(skips, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
            score = np.maximum(np.maximum(score, one), two)
        score = score + frame[states]
    return float(score[-2:].max())


def test_recorded_scores(golden: Path) -> None:
    """Score = best alignment + weight * log P(words, </s>) + word score * words.

    flashlight's silences at the ends of a clip need not be in its frames.
    """
    recorded = torch.load(golden / "decoder/runs_head_silence_is_bar.pt", weights_only=True)
    model = load_language_model(golden / "decoder/fairseq_lm.pt")
    compared = 0
    for run in recorded["runs"]:
        options = run["options"]
        if run["decoder"] != "fairseqlm" or options.get("sil_weight"):
            continue
        for log_probs, hypotheses in zip(recorded["emissions"], run["hypos"], strict=True):
            for hypothesis in hypotheses:
                tokens = hypothesis["tokens"]
                ends = (len(tokens), len(tokens) - (tokens[-1] == run["silence_index"]))
                starts = (0, int(tokens[0] == run["silence_index"]))
                acoustic = max(best_alignment(log_probs, tokens[start:end]) for start in starts for end in ends)
                words = hypothesis["words"]
                for whole in (model.sentence_scores([words]), LanguageModel.sentence_scores(model, [words])):
                    score = acoustic + options["lm_weight"] * whole[0] + options["word_score"] * len(words)
                    assert score == pytest.approx(hypothesis["score"], abs=1e-4)
                compared += 1
    assert compared


def test_its_dictionary_lies_beside_it(golden: Path, tmp_path: Path) -> None:
    copy = tmp_path / "lm.pt"
    shutil.copy(golden / "decoder/fairseq_lm.pt", copy)
    with pytest.raises(CheckpointError, match=r"knows 16 words and does not hold them.*there is no .*dict"):
        load_language_model(copy)
    named = load_language_model(copy, dictionary=str(golden / "decoder/dict.txt"))
    assert "SEVEN" in (named.words or ())
    (tmp_path / "dict.txt").write_text("A 1\n")
    with pytest.raises(CheckpointError, match=r"dict\.txt holds 5;"):
        load_language_model(copy)
    loaded = load_model(golden / "decoder/fairseq_lm.pt")
    assert loaded.num_updates > 0
    assert loaded.config["task"]["sample_break_mode"] == "eos"
    assert read_model_file(golden / "decoder/fairseq_lm.pt").kind == "fairseq, args"
