"""`--wer-args`: validation with a language model, on readings that it puts right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from w2v.criterions.ctc import CtcCriterion, CtcCriterionConfig
from w2v.data.dictionary import Dictionary
from w2v.data.post_process import post_process
from w2v.scoring import WerScorer
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask
from w2v.types import AudioBatch, CtcOutput

ARPA = str(Path(__file__).resolve().parents[1] / "assets" / "lm" / "words.arpa")
DICTIONARY = Dictionary.from_symbols(["|", "A", "B"])
REFERENCES = ["A B | A |", "B |"]
# What the best path reads, a frame per symbol: `BA` and `AA` are no words of the language model.
READ = ["B A | A |", "A A |"]


class WrittenDown(nn.Module):
    """Reads what it is told to, a blank between equal symbols; the second choice is the reference."""

    def forward(self, source: Tensor, lengths: Tensor | None, seed: int) -> CtcOutput:
        scores = torch.zeros(len(READ), 12, len(DICTIONARY))
        scores[:, :, 0] = 2.0
        for row, (read, reference) in enumerate(zip(READ, REFERENCES, strict=True)):
            for first, units in ((4.0, read), (3.5, reference)):
                for place, unit in enumerate(units.split()):
                    scores[row, 2 * place, DICTIONARY.index(unit)] = first
        return CtcOutput(scores, torch.tensor([12, 12]))


def validate(tmp_path: Path, wer_args: tuple[str, str | None, float, float] | None) -> dict[str, float]:
    (tmp_path / "dict.ltr.txt").write_text("| 9\nA 9\nB 9\n")
    task = AudioPretrainingTask(AudioPretrainingConfig(data=str(tmp_path), labels="ltr"))
    criterion = CtcCriterion(CtcCriterionConfig(wer_args=wer_args))
    targets = torch.full((2, 5), Dictionary.pad)
    lengths = torch.tensor([len(text.split()) for text in REFERENCES])
    for row, text in enumerate(REFERENCES):
        targets[row, : lengths[row]] = torch.tensor(DICTIONARY.encode(text))
    clips = AudioBatch(torch.zeros(2, 100), torch.tensor([100, 100]), torch.arange(2), 1, targets, lengths)
    loss = task.valid_step(WrittenDown(), criterion, clips)
    sums = {name: float(value) for name, value in loss.sums.items()}
    return task.summarize_valid(criterion, {"loss": float(loss.value), "sample_size": loss.sample_size, **sums})


def raw_error_rate() -> float:
    scorer = WerScorer()
    for read, reference in zip(READ, REFERENCES, strict=True):
        scorer.add(post_process(reference, "letter"), post_process(read, "letter"))
    return scorer.score()


def test_without_a_language_model_both_rates_are_one(tmp_path: Path) -> None:
    values = validate(tmp_path, None)
    assert values["wer"] == values["raw_wer"] == pytest.approx(raw_error_rate())


def test_a_language_model_puts_words_right(tmp_path: Path) -> None:
    values = validate(tmp_path, (ARPA, None, 1.0, 0.0))
    assert values["raw_wer"] == pytest.approx(raw_error_rate())
    # `AB A` and `A`: one word of three is wrong, where the best path has two.
    assert values["wer"] == pytest.approx(100 / 3)
    assert values["wer"] < values["raw_wer"]
