"""Scores against jiwer and sacrebleu, over whole sets."""

from __future__ import annotations

import pytest

from w2v.errors import RegistryError
from w2v.scoring import SCORERS, build_scorer, score_by_group

REFERENCES = ["the cat sat on the mat", "one two three", "so it goes", "a  b"]
HYPOTHESES = ["the cat sit on mat", "one two two three", "", "a b"]


def scored(name: str) -> float:
    scorer = build_scorer(name)
    for reference, hypothesis in zip(REFERENCES, HYPOTHESES, strict=True):
        scorer.add(reference, hypothesis)
    return scorer.score()


def test_wer_and_cer_equal_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer")
    assert scored("wer") == pytest.approx(100 * jiwer.wer(REFERENCES, HYPOTHESES))
    single_spaced = [" ".join(text.split()) for text in REFERENCES]
    assert scored("cer") == pytest.approx(100 * jiwer.cer(single_spaced, HYPOTHESES))


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_translation_scores_equal_sacrebleu(name: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    score = getattr(sacrebleu, f"corpus_{name}")
    assert scored(name) == pytest.approx(score(HYPOTHESES, [REFERENCES]).score)
    scorer = build_scorer(name)
    assert scorer.score() == 0.0
    assert scorer.summary() == f"{scorer.name}: 0.00"
    scorer.add("a b c d e", "a b c d e")
    assert "nrefs:1|case:" in scorer.summary()
    assert f"version:{sacrebleu.__version__}" in scorer.summary()
    assert scorer.larger_is_better == (name != "ter")


def test_summary_names_what_was_counted() -> None:
    scorer = build_scorer("wer")
    scorer.add("a b c d", "a x c d e")
    assert scorer.summary() == "WER: 50.00 % (1 sub, 1 ins, 0 del in 4 words of 1 sentences)"


def test_an_empty_set_and_errors_against_nothing() -> None:
    scorer = build_scorer("wer")
    assert scorer.score() == 0.0
    scorer.add("", "word")
    assert scorer.score() == float("inf")


@pytest.mark.parametrize("name", ["wer", "cer", "bleu"])
def test_groups_are_sets_of_their_own(name: str) -> None:
    groups = ["b", "a", "b", "a"]
    scorers = score_by_group(name, groups, REFERENCES, HYPOTHESES)
    assert list(scorers) == ["a", "b"]
    for group, scorer in scorers.items():
        alone = build_scorer(name)
        for where, reference, hypothesis in zip(groups, REFERENCES, HYPOTHESES, strict=True):
            if where == group:
                alone.add(reference, hypothesis)
        assert scorer.score() == alone.score()


def test_unknown_scorer() -> None:
    assert SCORERS.names() == ["bleu", "cer", "chrf", "ter", "wer"]
    with pytest.raises(RegistryError, match="did you mean 'wer'"):
        build_scorer("wes")
