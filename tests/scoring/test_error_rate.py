"""Scores against jiwer and sacrebleu, over whole sets."""

from __future__ import annotations

import pytest

from w2v.errors import RegistryError
from w2v.scoring import SCORERS, build_scorer

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


def test_bleu_equals_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    assert scored("bleu") == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    assert build_scorer("bleu").score() == 0.0


def test_summary_names_what_was_counted() -> None:
    scorer = build_scorer("wer")
    scorer.add("a b c d", "a x c d e")
    assert scorer.summary() == "WER: 50.00 % (1 sub, 1 ins, 0 del in 4 words of 1 sentences)"


def test_unknown_scorer() -> None:
    assert SCORERS.names() == ["bleu", "cer", "wer"]
    with pytest.raises(RegistryError, match="did you mean 'wer'"):
        build_scorer("wes")
