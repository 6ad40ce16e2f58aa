"""What a command line asks for and will not get is said before the first update; good commands say nothing."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from toy_speech import call

from w2v.training.options import parse_train_command
from w2v.training.start_checks import warnings_at_start
from w2v_cli import train

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
        ([*FINETUNING, "--patience", 3, "--disable-validation"], "--patience goes by validations, and"),
        ([*FINETUNING, "--keep-best-checkpoints", 3, "--disable-validation"], "--keep-best-checkpoints goes by"),
        ([*FINETUNING, "--lr", 0], "--lr 0: nothing trains"),
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


TINY = ["--conv-feature-layers", "[(8, 10, 5)]", "--encoder-layers", "1", "--encoder-embed-dim", "16",
        "--encoder-ffn-embed-dim", "16", "--encoder-attention-heads", "2", "--latent-vars", "4"]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe", "base-1gpu", "--max-update", 100], "--max-update must be above --warmup-updates, got 100 "),
        (["--recipe", "ctc-1h", "--w2v-path", "x.pt", "--max-update", 0], "--phase-ratio needs --max-update"),
        ([*FINETUNING[1:], "--lr", "0.1,0.2", "--lr-scheduler", "tri_stage"], "--lr must be a single number"),
        ([*PRETRAINING[1:], "--lr-scheduler", "cosine", "--warmup-updates", 1000], "a --max-update above --warmup-upd"),
        (["--task", "language_modeling", "--arch", "transformer_lm", "--criterion", "cross_entropy", "--lr", 1,
          "--train-subset", "a,b"], "--task language_modeling trains on one subset"),
        ([*PRETRAINING[1:], "--tensorboard-logdir", "log"], "--tensorboard-logdir needs the package tensorboardX"),
        ([*FINETUNING[1:], "--w2v-path", "gone.pt"], "--w2v-path gone.pt: there is no such checkpoint"),
        ([*FINETUNING[1:], "--wer-args", "('gone.arpa', None, 2, -1)"], "--wer-args: gone.arpa: there is no such file"),
        ([*PRETRAINING[1:], "--wandb-project", "x"], "--wandb-project needs the package wandb"),
        ([*PRETRAINING[1:], *TINY, "--cpu", "--best-checkpoint-metric", "wer"], "--best-checkpoint-metric must be one"),
    ],
)  # fmt: skip
def test_options_are_checked_before_data_are_looked_for(argv, message, tmp_path, monkeypatch):
    for package in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    outcome = call(train.main, [tmp_path / "nowhere", "--save-dir", tmp_path / "run", *argv])
    assert outcome.code == 2
    assert message in outcome.err
    assert "nowhere" not in outcome.err  # the folder of the data
    assert not (tmp_path / "run").exists()


def test_warnings_come_before_the_data(tmp_path):
    outcome = call(train.main, [tmp_path / "nowhere", *PRETRAINING[1:], *TINY, "--cpu", "--no-infonce"])
    assert outcome.code == 2
    assert "nowhere" in outcome.err
    assert "give --infonce" in outcome.out
