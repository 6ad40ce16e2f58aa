"""Rescoring against scores added up by hand, and what it says about models that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.decoders import DecoderConfig, build_decoder
from w2v.errors import ConfigError
from w2v.lm.ngram_model import open_ngram_model
from w2v.types import Hypothesis

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "lm"
WORDS, UNITS = str(ASSETS / "words.arpa"), str(ASSETS / "units.arpa")
DICTIONARY = Dictionary.from_symbols(["|", "A", "B"])


def config(**options: Any) -> DecoderConfig:
    given: dict[str, Any] = dict(w2l_decoder="kenlm", kenlm_model=WORDS, beam=50, nbest=20, lm_weight=0.4)
    return DecoderConfig(**{**given, **options})


def log_probs() -> Tensor:
    scores = torch.randn(5, 8, len(DICTIONARY), generator=torch.Generator().manual_seed(3))
    scores[:, :, 1:4] = -50
    return scores.log_softmax(-1)


def decode(options: DecoderConfig) -> list[list[Hypothesis]]:
    return build_decoder(options, DICTIONARY).decode(log_probs(), torch.tensor([8, 7, 0, 8, 3]))


@pytest.mark.parametrize("replaces", [False, True])
def test_scores_are_those_of_the_first_decoder_and_of_the_model(replaces: bool) -> None:
    options = dict(rescore_lm=WORDS, rescore_weight=3.0, rescore_word_score=-0.7, rescore_replaces_lm=replaces)
    model = open_ngram_model(WORDS)
    for before, after in zip(decode(config()), decode(config(**options)), strict=True):
        expected = []
        for hypothesis in before:
            score = float(model.sentence_scores([hypothesis.words])[0])
            first = (
                hypothesis.scores["emission"] + 1.0 * len(hypothesis.words)
                if replaces and hypothesis.scores
                else hypothesis.score
            )
            expected.append((first + 3 * score - 0.7 * len(hypothesis.words), hypothesis.tokens, hypothesis.words))
        expected.sort(key=lambda item: -item[0])
        assert [(pytest.approx(score, abs=1e-4), *rest) for score, *rest in expected] == [
            (hypothesis.score, hypothesis.tokens, hypothesis.words) for hypothesis in after
        ]


def test_the_order_changes_and_parts_are_kept() -> None:
    before, after = decode(config()), decode(config(rescore_lm=WORDS, rescore_weight=5.0))
    assert [r[0].words for r in before] != [r[0].words for r in after]
    for hypotheses in after[:2]:
        assert [set(hypothesis.scores) for hypothesis in hypotheses] == [{"emission", "lm", "rescore"}] * len(
            hypotheses
        )


def test_a_model_over_units_scores_spellings() -> None:
    model = open_ngram_model(UNITS)
    hypotheses = [hypothesis for nbest in decode(config(rescore_lm=UNITS)) for hypothesis in nbest]
    spelled = [[unit for word in hypothesis.words for unit in (*word, "|")] for hypothesis in hypotheses]
    assert [hypothesis.scores["rescore"] for hypothesis in hypotheses] == pytest.approx(
        list(model.sentence_scores(spelled))
    )


@pytest.mark.parametrize("first", [{}, {"kenlm_model": UNITS}])
def test_a_model_in_the_other_case_scores_the_same(tmp_path: Path, first: dict[str, Any]) -> None:
    lower = tmp_path / "lower.arpa"
    lower.write_text(Path(WORDS).read_text().lower())
    assert decode(config(rescore_lm=str(lower), **first)) == decode(config(rescore_lm=WORDS, **first))


@pytest.mark.parametrize("first", [{}, {"kenlm_model": UNITS}])
def test_a_model_of_other_words_does_not_fit(tmp_path: Path, first: dict[str, Any]) -> None:
    (tmp_path / "other.arpa").write_text(Path(WORDS).read_text().replace("A", "X").replace("B", "Y"))
    with pytest.raises(
        ConfigError, match=r"--rescore-lm .*other.arpa does not fit: only \d+% .* \('\w+' (is not|cannot)\)"
    ):
        decode(config(rescore_lm=str(tmp_path / "other.arpa"), **first))


def test_one_reading_cannot_be_reordered() -> None:
    for options in (dict(nbest=1), dict(w2l_decoder="viterbi")):
        with pytest.raises(ConfigError, match="--rescore-lm chooses among hypotheses"):
            config(rescore_lm=WORDS, **options)
