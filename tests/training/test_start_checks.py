"""What a command line asks for and will not get is said before the first update; good commands say nothing."""

from __future__ import annotations

from typing import Any

import pytest

from w2v.training.options import parse_train_command
from w2v.training.start_checks import warnings_at_start

PRETRAINING = [
    *("data", "--arch", "wav2vec2", "--criterion", "wav2vec", "--infonce", "--quantize-targets"),
    *("--loss-weights", "[0.1, 10]", "--lr", "0.0005", "--max-update", "1000"),
]
FINETUNING = [
    *("data", "--arch", "wav2vec_ctc", "--criterion", "ctc", "--labels", "ltr", "--lr", "0.00005"),
    *("--max-update", "1000"),
]


def said(*argv: Any) -> str:
    return "\n".join(warnings_at_start(parse_train_command([str(word) for word in argv]).config))


@pytest.mark.parametrize("argv", [PRETRAINING, FINETUNING, [*FINETUNING, "--freeze-finetune-updates", "999"]])
def test_nothing_to_say(argv):
    assert said(*argv) == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*FINETUNING, "--freeze-finetune-updates", 1000], "1000 is not below --max-update 1000: the encoder"),
        ([*FINETUNING, "--validate-after-updates", 1001], "never validates, and writes no checkpoint_best.pt"),
        ([*PRETRAINING, "--max-update", 0], "the run never ends"),
        ([*FINETUNING, "--maximize-best-checkpoint-metric"], "the largest loss counts as the best"),
        ([*PRETRAINING, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 1000, "--total-num-update", 2000],
         "--warmup-updates 1000 is not below --max-update 1000"),
        ([*FINETUNING, "--lr-scheduler", "tri_stage", "--warmup-steps", 4000], "--warmup-steps 4000 is not below"),
        ([*FINETUNING, "--lr-scheduler", "tri_stage", "--warmup-steps", 400, "--hold-steps", 600], "never falls"),
        ([*PRETRAINING, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 9, "--total-num-update", 500],
         "--total-num-update 500 is below --max-update 1000: from there on"),
        ([*PRETRAINING, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 9, "--total-num-update", 10000],
         "falls to 90% of --lr only"),
        ([*PRETRAINING, "--log-keys", '["code_perplexity", "prob_perplexty"]'], "'prob_perplexty' is none of prob_per"),
        ([*PRETRAINING, "--no-quantize-targets"], "give --quantize-targets"),
        ([*PRETRAINING, "--loss-weights", "[0, 10]"], "nothing keeps the codebook from collapsing"),
        ([*PRETRAINING, "--no-infonce"], "give --infonce"),
    ],
)  # fmt: skip
def test_one_line_each(argv, message):
    assert message in said(*argv)
    assert said(*argv).count("\n") == 0


def test_validation_that_is_switched_off_is_not_missed():
    assert said(*FINETUNING, "--validate-after-updates", 1001, "--disable-validation") == ""
