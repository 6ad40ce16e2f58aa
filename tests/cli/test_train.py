"""What w2v-train does with bad input: one clear line and exit code 2, or a counted and logged skip; nothing lost.

Everything else about it is tested in tests/integration and tests/trainer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import ADAM, RATE, Outcome, call, finetuning, prepare, pretraining

from w2v.checkpoint.file import load_checkpoint
from w2v_cli import train

soundfile = pytest.importorskip("soundfile")

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = ["--max-update", 2, "--log-interval", 1, "--max-tokens", 60000]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with clips, manifests, labels, and a pretrained checkpoint."""
    folder = tmp_path_factory.mktemp("corpus")
    data = prepare(folder, 40)
    outcome = call(train.main, pretraining(data, folder / "pretrained", *SHORT))
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def data(corpus: Path, tmp_path: Path) -> Path:
    """Return a copy of the manifests and labels that a test may damage; the clips are shared."""
    return Path(shutil.copytree(corpus / "data", tmp_path / "data"))


def pretrain(data: Path, *more: Any) -> Outcome:
    return call(train.main, pretraining(data, data.parent / "run", *SHORT, *more))


def finetune(data: Path, *more: Any, corpus: Path) -> Outcome:
    pretrained = corpus / "pretrained/checkpoint_last.pt"
    command = finetuning(data, data.parent / "run", pretrained, *SHORT, "--best-checkpoint-metric", "loss", *more)
    return call(train.main, command)


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def refused(outcome: Outcome, *words: str) -> None:
    """Check that a program ended with exit code 2 and one line that holds `words`."""
    assert outcome.code == 2, (outcome.out, outcome.err)
    lines = [line for line in outcome.err.splitlines() if line]
    assert len(lines) == 1, outcome.err
    assert "error: " in lines[0]
    assert "Traceback" not in outcome.out + outcome.err
    for word in words:
        assert word in lines[0], (word, lines[0])


# ---------------------------------------------------------------------------------------------- refused


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused(pretrain(tmp_path / "data"), "cannot read the manifest", "train.tsv", "No such file")


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(pretrain(tmp_path / "none"), "none/train.tsv", "No such file")


def test_a_missing_validation_manifest_is_found_before_training(data: Path) -> None:
    (data / "valid.tsv").unlink()
    outcome = pretrain(data)
    refused(outcome, "valid.tsv", "No such file", "or train with --disable-validation")
    assert not outcome.lines("train_inner")


def test_an_empty_validation_manifest_names_what_to_do(data: Path) -> None:
    edit(data / "valid.tsv", lambda lines: lines[:1])
    refused(pretrain(data), "valid.tsv: lists no clips", "or train with --disable-validation")
    assert pretrain(data, "--disable-validation").code == 0


def test_a_manifest_without_clips(data: Path) -> None:
    edit(data / "train.tsv", lambda lines: lines[:1])
    refused(pretrain(data), "train.tsv", "lists no clips")


def test_a_manifest_whose_folder_has_gone(data: Path) -> None:
    edit(data / "train.tsv", lambda lines: ["/somewhere/else", *lines[1:]])
    refused(pretrain(data), "train.tsv:1", "'/somewhere/else' does not exist")


@pytest.mark.parametrize("more", [[], ["--resample"]])
def test_clips_that_have_all_moved(more: list[str], data: Path) -> None:
    edit(data / "train.tsv", lambda lines: [lines[0], *(f"moved/{line}" for line in lines[1:])])
    refused(
        pretrain(data, *more), "none of the 16 clips of train", "can be read,", "train.tsv:2: ", "moved/", "No such"
    )


def test_a_malformed_line(data: Path) -> None:
    edit(data / "train.tsv", lambda lines: [*lines[:4], "clip.wav 12000", *lines[5:]])
    refused(pretrain(data), "train.tsv:5", "one tab", "clip.wav 12000")


def test_all_clips_too_short(data: Path) -> None:
    refused(pretrain(data, "--min-sample-size", 10**6), "--min-sample-size 1000000", "clips are dropped")


def test_labels_of_the_wrong_length(data: Path, corpus: Path) -> None:
    edit(data / "train.ltr", lambda lines: lines[:-3])
    outcome = finetune(data, corpus=corpus)
    clips = len((data / "train.tsv").read_text().splitlines()) - 1
    refused(outcome, "train.ltr", f"has {clips - 3} lines", f"{clips} clips")


def test_an_empty_label_line(data: Path, corpus: Path) -> None:
    edit(data / "train.ltr", lambda lines: [lines[0], "", *lines[2:]])
    refused(finetune(data, corpus=corpus), "train.ltr:2", "empty line")


def test_no_dictionary(data: Path, corpus: Path) -> None:
    (data / "dict.ltr.txt").unlink()
    refused(finetune(data, corpus=corpus), "dict.ltr.txt", "No such file", "w2v-labels --dict writes it")


def test_labels_wanted_and_not_given(data: Path) -> None:
    command = ["--arch", "wav2vec_ctc", "--criterion", "ctc", "--save-dir", data.parent / "run", *SHORT, "--cpu"]
    refused(call(train.main, [data, *command, "--lr", 0.1]), "--labels")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--mask-prob", 1.5], ["--mask-prob must lie in [0, 1], got 1.5"]),
        (["--max-tokens", 0], ["--max-tokens must be at least 1, got 0"]),
        (["--max-tokens", 100], ["--max-tokens"]),
        (["--lr", -1], ["--lr must be at least 0"]),
        (["--dropout", "x"], ["--dropout", "number", "'x'"]),
        (["--conv-feature-layers", "[(32, 0, 5)]"], ["--conv-feature-layers"]),
        (["--loss-weights", "[1, 2, 3]"], ["--loss-weights must hold 1 or 2 numbers", "[1.0, 2.0, 3.0]"]),
        (["--arch", "wav2vec3"], ["--arch: unknown model 'wav2vec3'; did you mean ", "'wav2vec2'"]),
        (["--criterion", "ctc"], ["unknown flag --infonce; it belongs to --criterion wav2vec"]),
        (["--sample-rate", 8000], ["are not 8000 Hz mono", "(16000 Hz, 1 channel)", "--resample"]),
        (["--restore-file", "none.pt"], ["none.pt: there is no such checkpoint"]),
        (["--finetune-from-model", "none.pt"], ["none.pt: there is no such checkpoint"]),
        (["--save-dir", "/proc/none"], ["--save-dir '/proc/none' cannot be written to"]),
        (["--distributed-init-method", "nonsense", "--distributed-world-size", 2], ["nonsense"]),
        (["--distributed-rank", 7], ["--distributed-rank must lie in [0, 0], got 7"]),
        (["--distributed-world-size", 0], ["--distributed-world-size must be at least 1"]),
        (["--distributed-world-size", 6400], ["6400 processes", "no usable GPU", "--update-freq 6400"]),
        (["--train-subset", "other"], ["other.tsv", "No such file"]),
        (
            ["--valid-subset", "valid,"],
            ["--valid-subset must be different names", "--disable-validation trains without"],
        ),
    ],
    ids=lambda value: " ".join(map(str, value))[:40],
)
def test_bad_flags(more: list[Any], words: list[str], data: Path) -> None:
    refused(pretrain(data, *more), *words)


def test_a_missing_pretrained_file(data: Path, corpus: Path) -> None:
    refused(finetune(data, "--w2v-path", "gone.pt", corpus=corpus), "gone.pt", "no such checkpoint")


def test_a_pretrained_file_of_another_kind(data: Path, corpus: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, data / "other.pt")
    refused(finetune(data, "--w2v-path", data / "other.pt", corpus=corpus), "other.pt")


def test_normalize_must_be_as_in_pretraining(data: Path, corpus: Path) -> None:
    outcome = finetune(data, "--normalize", corpus=corpus)
    refused(outcome, "was pretrained without --normalize", "fine-tune it without --normalize, too")


def test_a_language_model_that_is_not_there(data: Path, corpus: Path) -> None:
    pytest.importorskip("flashlight.lib.text")
    more = ["--wer-args", "('none.bin', None, 2, -1)"]
    outcome = finetune(data, *more, corpus=corpus)
    refused(outcome, "none.bin")
    assert not outcome.lines("train_inner")  # not at the first validation, hours later


def test_a_clip_over_max_tokens_in_validation(data: Path) -> None:
    outcome = pretrain(data, "--max-tokens-valid", 5000)
    refused(outcome, "--max-tokens", "5000")
    assert not outcome.lines("train_inner")


def test_stereo_clips(data: Path) -> None:
    folder = data.parent / "stereo"
    folder.mkdir()
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", np.zeros((20000, 2)), RATE)
    (data / "train.tsv").write_text(f"{folder}\n" + "".join(f"{n}.wav\t20000\n" for n in range(6)))
    words = ["not 16000 Hz mono: 0.wav (16000 Hz, 2 channels)", "--resample", "--channel takes one channel"]
    refused(pretrain(data, "--num-workers", 1), *words)


# ----------------------------------------------------------------------------------- counted, and carried on


def test_a_dictionary_that_lacks_a_letter(data: Path, corpus: Path) -> None:
    edit(data / "dict.ltr.txt", lambda lines: [line for line in lines if not line.startswith("E ")])
    outcome = finetune(data, corpus=corpus)
    assert outcome.code == 0, outcome.err
    expected = (data / "train.ltr").read_text().split().count("E")
    [line] = [line for line in outcome.out.splitlines() if "train.ltr" in line and "WARNING" in line]
    assert f"{expected} of " in line
    assert "become <unk>: 'E'" in line
    assert load_checkpoint(data.parent / "run/checkpoint_last.pt")["trainer"]["num_updates"] == 2


def test_labels_without_the_end_of_words(data: Path, corpus: Path) -> None:
    edit(data / "train.ltr", lambda lines: [line.replace(" |", "") for line in lines])
    outcome = finetune(data, "--post-process", "sentencepiece", corpus=corpus)
    assert outcome.code == 0, outcome.err
    [line] = [line for line in outcome.out.splitlines() if "no line holds '|'" in line]
    assert "train.ltr" in line
    assert "WARNING" in line
    [line] = [line for line in outcome.out.splitlines() if "by which --post-process sentencepiece finds words" in line]
    assert "its words end in '|': give --post-process letter" in line


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["removed", "empty", "text", "cut short"])
def test_an_unreadable_clip_in_the_middle_of_an_epoch(damage: str, workers: int, data: Path, corpus: Path) -> None:
    clips = data.parent / "clips"
    shutil.copytree(corpus / "audio", clips)
    edit(data / "train.tsv", lambda lines: [str(clips), *lines[1:]])
    name = (data / "train.tsv").read_text().splitlines()[7].split("\t")[0]
    content = (clips / name).read_bytes()
    if damage == "removed":
        (clips / name).unlink()
    else:
        (clips / name).write_bytes({"empty": b"", "text": b"no audio", "cut short": content[:60]}[damage])
    outcome = pretrain(data, "--max-epoch", 1, "--max-update", 0, "--num-workers", workers)
    assert outcome.code == 0, outcome.err
    named = [line for line in outcome.out.splitlines() if name in line]
    assert len(named) == 1
    assert "WARNING" in named[0]
    assert "unreadable, replaced by another clip" in named[0]
    [summary] = outcome.lines("train")
    assert summary["train_nsentences"] * summary["train_num_updates"] == pytest.approx(
        len((data / "train.tsv").read_text().splitlines()) - 1, abs=0.5
    )


# ---------------------------------------------------------------------------------------- nothing is lost


def limited(command: list[Any], size: int) -> subprocess.CompletedProcess[str]:
    """Run w2v-train with a limit on the size of files: writing beyond it fails as on a full disk."""
    script = (
        "import resource, signal, sys\n"
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "from w2v import checkpoint\nfrom w2v_cli.train import main\ncheckpoint.RETRY_PAUSE = 0.01\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", script, *map(str, command)]
    return subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=120)


def test_a_full_disk_while_saving(data: Path) -> None:
    pytest.importorskip("resource")
    first = pretrain(data)
    assert first.code == 0, first.err
    last = data.parent / "run/checkpoint_last.pt"
    before = last.read_bytes()
    command = [*pretraining(data, last.parent, *SHORT), "--max-update", 4]
    done = limited(command, len(before) // 2)
    refused(Outcome(done.returncode, done.stdout, done.stderr), "cannot be written", "File too large", "untouched")
    assert last.read_bytes() == before
    assert not list(last.parent.glob("*.tmp"))
    # With room again, the same command goes on where the kept checkpoint stands.
    again = call(train.main, command)
    assert again.code == 0, again.err
    assert [line["num_updates"] for line in again.lines("train_inner")] == [3, 4]


def test_a_damaged_last_checkpoint_is_replaced_by_the_best(data: Path) -> None:
    first = pretrain(data)
    assert first.code == 0, first.err
    last = data.parent / "run/checkpoint_last.pt"
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[: len(content) // 2])
    again = call(train.main, [*pretraining(data, last.parent, *SHORT), "--max-update", 3])
    assert again.code == 0, again.err
    assert "checkpoint_last.pt: cannot be read" in again.out
    assert "resuming from" in again.out
    assert [line["num_updates"] for line in again.lines("train_inner")] == [3]


def test_a_changed_command_is_refused_where_it_cannot_go_on(data: Path) -> None:
    assert pretrain(data).code == 0
    refused(pretrain(data, "--encoder-embed-dim", 64, "--max-update", 4), "does not fit the model")
    unknown = pretrain(data, "--optimizer", "sgd", "--max-update", 4)
    refused(unknown, "unknown flag --adam-betas; it belongs to --optimizer adam")
    command = pretraining(data, data.parent / "run", *SHORT, "--max-update", 4)
    place = command.index("--optimizer")
    command[place : place + len(ADAM)] = ["--optimizer", "sgd"]
    refused(call(train.main, command), "was trained with --optimizer adam, this run has sgd", "--reset-optimizer")


def test_an_unknown_metric_is_refused_before_anything_is_trained(data: Path) -> None:
    """What validation logs is known at the start; nothing is written that a second start would resume."""
    refused(pretrain(data, "--best-checkpoint-metric", "wer"), "--best-checkpoint-metric must be one of", "'wer'")
    again = pretrain(data, "--max-update", 3)
    assert again.code == 0, again.err
    assert [line["num_updates"] for line in again.lines("train_inner")] == [1, 2, 3]


def test_weights_that_are_not_finite_are_never_saved(data: Path) -> None:
    """Exit code 3: the command was right, training was not."""
    outcome = pretrain(data, "--lr", 1e30, "--warmup-updates", 0, "--max-update", 6)
    assert outcome.code in (2, 3)
    assert "Traceback" not in outcome.err
    path = data.parent / "run/checkpoint_last.pt"
    if path.exists():
        assert all(bool(tensor.isfinite().all()) for tensor in load_checkpoint(path)["model"].values())


def test_lines_are_the_originals(data: Path) -> None:
    """`date | INFO | tag | {...}`; numbers are strings, save epoch and update."""
    outcome = pretrain(data)
    [line] = [line for line in outcome.out.splitlines() if "| train_inner |" in line][-1:]
    date, level, tag, text = line.split(" | ", 3)
    assert (len(date), level, tag) == (19, "INFO", "train_inner")
    values = json.loads(text)
    assert isinstance(values.pop("epoch"), int)
    assert isinstance(values.pop("update"), float)
    assert all(isinstance(value, str) for value in values.values())
