"""The whole line on a toy language: manifest, labels, pretraining, fine-tuning, transcripts, word error rate.

Then what must hold of the line: the same command again does nothing, two ranks are one that accumulates, and number
formats agree.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_speech import Outcome, call, finetuning, prepare, pretraining

from w2v.checkpoint.file import load_checkpoint
from w2v.errors import CheckpointError
from w2v_cli import infer, train

pytest.importorskip("soundfile")

REPOSITORY = Path(__file__).resolve().parents[2]
LARGEST_WER = 20.0  # percent; 0 where it was written, with every seed tried, and 100 for a model that learnt nothing


@dataclass(frozen=True)
class Line:
    """Where the line was run, and what the two trainings said."""

    folder: Path
    data: Path
    pretrained: Outcome
    finetuned: Outcome

    def infer(self, *more: Any) -> Outcome:
        return call(
            infer.main,
            [
                self.data, "--path", self.folder / "finetuned/checkpoint_best.pt", "--gen-subset", "valid",
                "--results-path", self.folder / "results", "--labels", "ltr", "--post-process", "letter",
                "--num-workers", 0, "--cpu", "--quiet", *more,
            ],
        )  # fmt: skip


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    folder = tmp_path_factory.mktemp("line")
    data = prepare(folder, 600)
    pretrained = call(train.main, pretraining(data, folder / "pretrained"))
    assert pretrained.code == 0, pretrained.err
    command = finetuning(data, folder / "finetuned", folder / "pretrained/checkpoint_last.pt")
    finetuned = call(train.main, command)
    assert finetuned.code == 0, finetuned.err
    return Line(folder, data, pretrained, finetuned)


def test_pretraining_learns(line: Line) -> None:
    first, *_, last = line.pretrained.lines("train_inner")
    assert last["num_updates"] == 40
    assert last["loss"] < 0.7 * first["loss"]
    assert 2 <= last["code_perplexity"] <= 32


def test_validation_and_inference_agree_on_a_low_error_rate(line: Line) -> None:
    best = min(values["valid_wer"] for values in line.finetuned.lines("valid"))
    assert best <= LARGEST_WER
    outcome = line.infer("--w2l-decoder", "viterbi")
    assert outcome.code == 0, outcome.err
    found = float(outcome.out.split("WER: ")[1].split()[0])
    assert found == pytest.approx(best, abs=0.01)


def test_a_language_model_does_no_harm(line: Line) -> None:
    pytest.importorskip("kenlm")
    pytest.importorskip("flashlight.lib.text")
    words = sorted({word for text in (line.data / "train.wrd").read_text().splitlines() for word in text.split()})
    # All words alike; KenLM wants at least one bigram.
    unigrams = [f"-1.0\t{word}\t0.0" for word in ("<unk>", "<s>", "</s>", *words)]
    head = ["\\data\\", f"ngram 1={len(unigrams)}", "ngram 2=1", "", "\\1-grams:", *unigrams]
    arpa = line.folder / "words.arpa"
    arpa.write_text("\n".join([*head, "", "\\2-grams:", f"-1.0\t<s> {words[0]}", "", "\\end\\", ""]))
    outcome = line.infer(
        "--w2l-decoder", "kenlm", "--lm-model", arpa, "--lm-weight", 1, "--word-score", 0, "--beam", 20
    )
    assert outcome.code == 0, outcome.err
    assert float(outcome.out.split("WER: ")[1].split()[0]) <= LARGEST_WER
    hypotheses = (line.folder / "results" / "hypo.word-checkpoint_best.pt-valid.txt").read_text().splitlines()
    assert {word for hypothesis in hypotheses for word in hypothesis.split()[:-1]} <= set(words)


def test_the_same_command_again_does_nothing_more(line: Line) -> None:
    last = line.folder / "finetuned/checkpoint_last.pt"
    before = last.read_bytes()
    command = finetuning(line.data, line.folder / "finetuned", line.folder / "pretrained/checkpoint_last.pt")
    again = call(train.main, command)
    assert again.code == 0, again.err
    assert "--max-update 300 is reached" in again.out
    assert not again.lines("train_inner")
    assert last.read_bytes() == before


def test_a_finetuned_model_needs_no_other_file(line: Line, tmp_path: Path) -> None:
    alone = tmp_path / "model.pt"
    alone.write_bytes((line.folder / "finetuned/checkpoint_best.pt").read_bytes())
    for file in ("dict.ltr.txt", "train.tsv"):
        (line.data / file).rename(line.data / f"{file}.away")
    try:
        outcome = line.infer("--path", alone)
    finally:
        for file in ("dict.ltr.txt", "train.tsv"):
            (line.data / f"{file}.away").rename(line.data / file)
    assert outcome.code == 0, outcome.err
    assert "WER: " in outcome.out


# --------------------------------------------------------------------------------------------- restart


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec_ctc"])
def test_a_run_in_two_parts_is_one_run(kind: str, line: Line, tmp_path: Path) -> None:
    """To the bit, with all that is drawn at random; the second part begins in the middle of an epoch."""

    def command(save_dir: str, *more: Any) -> list[Any]:
        same = ["--max-tokens", 50000, "--log-interval", 1, "--disable-validation", *more]
        if kind == "wav2vec2":
            same += ["--dropout-input", 0.1, "--dropout-features", 0.1, "--encoder-layerdrop", 0.3]
            return pretraining(line.data, tmp_path / save_dir, *same)
        same += ["--apply-mask", "--mask-length", 3, "--dropout", 0.1, "--layerdrop", 0.3, "--final-dropout", 0.1]
        return finetuning(line.data, tmp_path / save_dir, line.folder / "pretrained/checkpoint_last.pt", *same)

    whole = call(train.main, command("whole", "--max-update", 9))
    first = call(train.main, command("parts", "--max-update", 4))
    # Another number of workers must not matter.
    second = call(train.main, command("parts", "--max-update", 9, "--num-workers", 2))
    assert (whole.code, first.code, second.code) == (0, 0, 0), whole.err + first.err + second.err
    states = [load_checkpoint(tmp_path / name / "checkpoint_last.pt") for name in ("whole", "parts")]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], tensor), name
    losses = [values["loss"] for values in whole.lines("train_inner")]
    assert [values["loss"] for part in (first, second) for values in part.lines("train_inner")] == losses


# ------------------------------------------------------------------------------------------- two ranks


def two_ranks(arguments: list[Any]) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "w2v_cli.train", *map(str, arguments), "--distributed-world-size", "2"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec_ctc"])
def test_two_ranks_equal_one_that_accumulates(kind: str, line: Line, tmp_path: Path) -> None:
    def command(save_dir: str) -> list[Any]:
        same = ["--max-update", 6, "--log-interval", 1, "--dropout", 0, "--attention-dropout", 0, "--max-tokens", 60000]
        if kind == "wav2vec2":
            return pretraining(line.data, tmp_path / save_dir, *same, "--encoder-layerdrop", 0.2)
        pretrained = line.folder / "pretrained/checkpoint_last.pt"
        same += ["--freeze-finetune-updates", 3, "--apply-mask", "--mask-length", 3, "--best-checkpoint-metric", "loss"]
        return finetuning(line.data, tmp_path / save_dir, pretrained, *same, "--warmup-steps", 4)

    two = two_ranks(command("two"))
    assert two.returncode == 0, two.stderr
    one = call(train.main, [*command("one"), "--update-freq", 2])
    assert one.code == 0, one.err
    states = [load_checkpoint(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two")]
    assert states[0]["trainer"]["num_updates"] == states[1]["trainer"]["num_updates"] == 6
    for name, tensor in states[0]["model"].items():
        torch.testing.assert_close(
            states[1]["model"][name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
    ours, theirs = one.lines("train_inner"), Outcome(0, two.stdout, "").lines("train_inner")
    assert len(ours) == len(theirs) == 6
    for our, their in zip(ours, theirs):
        for key in ("loss", "ntokens", "gnorm", "lr"):
            # Lines are rounded to three decimals.
            assert their[key] == pytest.approx(our[key], rel=1e-5, abs=1.01e-3), key
    valid, again = one.lines("valid"), Outcome(0, two.stdout, "").lines("valid")
    assert [values["valid_loss"] for values in valid] == pytest.approx(
        [values["valid_loss"] for values in again], rel=1e-5, abs=1.01e-3
    )


# --------------------------------------------------------------------------------------- number formats


@pytest.mark.usefixtures("quick_half")
def test_number_formats_give_close_curves(line: Line, tmp_path: Path) -> None:
    curves = {}
    for flag in ("--no-fp16", "--bf16", "--fp16"):
        outcome = call(
            train.main,
            pretraining(line.data, tmp_path / flag, "--max-update", 30, "--disable-validation", flag),
        )
        assert outcome.code == 0, outcome.err
        curves[flag] = [values["loss"] for values in outcome.lines("train_inner")]
    exact = curves.pop("--no-fp16")
    assert len(exact) == 3
    for flag, curve in curves.items():
        assert curve == pytest.approx(exact, rel=0.03), (flag, curve, exact)


def test_a_damaged_encoder_is_named(line: Line, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((line.folder / "pretrained/checkpoint_last.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"damaged\.pt: cannot be read"):
        load_checkpoint(damaged)
    outcome = call(train.main, finetuning(line.data, tmp_path / "run", damaged))
    assert outcome.code == 2
    assert "damaged.pt: cannot be read" in outcome.err
