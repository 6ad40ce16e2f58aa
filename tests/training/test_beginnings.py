"""Runs that begin from a model: of every family and every program that wrote it, taken or refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import Outcome, call, prepare

import w2v
from w2v.checkpoint.file import load_checkpoint
from w2v.convert import read_model_file
from w2v_cli import align, convert, featurize, infer, lm, tokenize, train, transcribe, visualize

soundfile = pytest.importorskip("soundfile")
soxr = pytest.importorskip("soxr")

FAMILIES = ("w2v2_base", "w2v2_large", "ctc_base", "w2v1", "vq_gumbel", "vq_kmeans")
CTC = [
    *("--task", "audio_pretraining", "--arch", "wav2vec_ctc", "--criterion", "ctc", "--labels", "ltr", "--lr", "1e-3"),
    *("--max-tokens", "100000", "--num-workers", "0", "--cpu", "--max-update", "1"),
]
PRETRAINING = [
    *("--criterion", "wav2vec", "--infonce", "--lr", "1e-3", "--max-tokens", "64000", "--max-sample-size", "16000"),
    *("--num-workers", "0", "--cpu", "--max-update", "1"),
]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("speech"), 12, num_words=(4, 6), valid_percent=0.2)


def model(golden: Any, name: str) -> Path:
    return golden / f"checkpoints/g1_args/{name}.pt"


def normalized(golden: Any, name: str) -> list[str]:
    return ["--normalize"] if read_model_file(model(golden, name)).normalize else []


# ------------------------------------------------------------------------------------------ --w2v-path


@pytest.mark.parametrize("name", FAMILIES)
def test_an_encoder_for_fine_tuning(golden: Any, speech: Path, tmp_path: Path, name: str) -> None:
    path = model(golden, name)
    outcome = call(train.main, [speech, "--save-dir", tmp_path, "--w2v-path", path, *CTC, *normalized(golden, name)])
    if name in ("w2v1", "vq_gumbel", "vq_kmeans"):
        found = read_model_file(path).name
        assert_one_line(outcome, f"--w2v-path: the model there is no wav2vec 2.0 ({path} is of --arch {found})")
        return
    assert outcome.code == 0, outcome.err
    assert ("is fine-tuned already: its encoder is taken" in outcome.out + outcome.err) == (name == "ctc_base")
    ours, theirs = load_checkpoint(tmp_path / "checkpoint_last.pt")["model"], read_model_file(path).state
    prefix = "w2v_encoder.w2v_model."
    conv = next(key for key in ours if key.startswith(f"{prefix}feature_extractor"))
    assert torch.equal(ours[conv], theirs[conv if name == "ctc_base" else conv.removeprefix(prefix)].float())


def test_a_fine_tuned_model_with_other_symbols(golden: Any, speech: Path, tmp_path: Path) -> None:
    path = model(golden, "ctc_base")
    flags = ["--save-dir", tmp_path, "--finetune-from-model", path, *CTC, *normalized(golden, "ctc_base")]
    outcome = call(train.main, [speech, *flags])
    theirs = list(read_model_file(path).state["w2v_encoder.proj.weight"].shape)
    assert_one_line(outcome, f"w2v_encoder.proj.weight has the shape {theirs} there, ")
    assert "--w2v-path takes its encoder alone" in outcome.err


def test_our_own_fine_tuned_model_is_fine_tuned_further(golden: Any, speech: Path, tmp_path: Path) -> None:
    first = [speech, "--save-dir", tmp_path / "a", "--w2v-path", model(golden, "w2v2_base"), *CTC]
    assert call(train.main, first).code == 0
    again = [speech, "--save-dir", tmp_path / "b", "--w2v-path", tmp_path / "a" / "checkpoint_last.pt", *CTC]
    assert call(train.main, again).code == 0
    configs = [load_checkpoint(tmp_path / run / "checkpoint_last.pt")["config"]["model"]["w2v_args"] for run in "ab"]
    assert configs[0] == configs[1]


# ------------------------------------------------------------------------------------------ continued pretraining


@pytest.mark.parametrize("flag", ["--finetune-from-model", "--restore-file"])
@pytest.mark.parametrize("name", ["w2v2_base", "w2v2_large", "vq_gumbel", "ctc_base"])
def test_pretraining_continues(golden: Any, speech: Path, tmp_path: Path, name: str, flag: str) -> None:
    path = model(golden, name)
    resets = ["--reset-optimizer", "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters"]
    argv = [speech, "--save-dir", tmp_path, *PRETRAINING, flag, path, *(resets if flag == "--restore-file" else [])]
    if name == "ctc_base":
        assert_one_line(
            call(train.main, [*argv, "--arch", "wav2vec2"]), "is a model of --arch wav2vec_ctc, this run has wav2vec2"
        )
        return
    outcome = call(train.main, argv)  # no architecture, no --normalize: both are the model's
    assert outcome.code == 0, outcome.err
    state, theirs = load_checkpoint(tmp_path / "checkpoint_last.pt"), read_model_file(path)
    assert state["trainer"]["num_updates"] == 1
    assert state["config"]["task"]["normalize"] == theirs.normalize
    assert state["model"].keys() == theirs.state.keys()
    frozen = {k: v.float() for k, v in theirs.state.items()}
    moved = [key for key in frozen if not torch.allclose(frozen[key], state["model"][key], atol=0.02)]
    assert not moved  # one small update away
    again = call(train.main, [*argv, "--max-update", "2"])
    assert again.code == 0, again.err  # resumes: the model is not read a second time
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["trainer"]["num_updates"] == 2


def test_flags_win_over_the_model_and_must_fit(golden: Any, speech: Path, tmp_path: Path) -> None:
    argv = [speech, "--save-dir", tmp_path, *PRETRAINING, "--finetune-from-model", model(golden, "w2v2_base")]
    assert_one_line(call(train.main, [*argv, "--normalize"]), "was trained without --normalize; train it without, too")
    assert_one_line(call(train.main, [*argv, "--encoder-layers", "7"]), "does not fit the model")
    assert call(train.main, [*argv, "--dropout", "0.3"]).code == 0
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["config"]["model"]["dropout"] == 0.3


def test_a_hugging_face_folder(golden: Any, speech: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    assert call(convert.main, [model(golden, "w2v2_base"), tmp_path / "hf", "--to", "huggingface"]).code == 0
    argv = [speech, "--save-dir", tmp_path / "run", *PRETRAINING, "--finetune-from-model", tmp_path / "hf"]
    assert call(train.main, argv).code == 0


def test_another_dictionary_is_refused(golden: Any, speech: Path, tmp_path: Path) -> None:
    argv = [speech, "--save-dir", tmp_path, "--w2v-path", model(golden, "w2v2_base"), *CTC]
    assert call(train.main, argv).code == 0
    path = speech / "dict.ltr.txt"
    lines = path.read_text().splitlines()
    try:
        path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
        assert_one_line(
            call(train.main, [*argv, "--max-update", "2"]),
            f"symbol 4 is '{lines[0][0]}' there, '{lines[1][0]}' in the data folder",
        )
        restored = [speech, "--save-dir", tmp_path / "other", *CTC, "--restore-file", tmp_path / "checkpoint_last.pt"]
        assert_one_line(call(train.main, restored), "was trained with another dictionary")
        weights = [*restored[:-2], "--finetune-from-model", tmp_path / "checkpoint_last.pt"]
        assert_one_line(call(train.main, weights), "was trained with another dictionary")
    finally:
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_texts_that_do_not_fit_are_left_out(golden: Any, speech: Path, tmp_path: Path, split: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in [*speech.glob("*.tsv"), *speech.glob("*.ltr"), speech / "dict.ltr.txt"]:
        (data / file.name).write_text(file.read_text())
    lines = (data / f"{split}.ltr").read_text().splitlines()
    lines[1] = " ".join([lines[1]] * 60)
    (data / f"{split}.ltr").write_text("\n".join(lines) + "\n")
    argv = [data, "--save-dir", tmp_path / "run", "--w2v-path", model(golden, "w2v2_base"), *CTC]
    outcome = call(train.main, [*argv, "--max-update", "4", "--log-format", "json"])
    assert outcome.code == 0, outcome.err
    said = outcome.out + outcome.err
    assert f"left out 1 clips with more symbols than frames, whose loss is infinite: {data / split}.tsv:3 " in said
    assert "update skipped" not in said
    assert all(line["valid_loss"] < 1e6 for line in outcome.lines("valid"))
    assert (tmp_path / "run" / "checkpoint_best.pt").is_file()


# ------------------------------------------------------------------------------------------ every program, every family


PROGRAMS: dict[str, Any] = {
    "infer": lambda path, data, out: (
        infer.main, [data, "--path", path, "--gen-subset", "valid", "--cpu", "--num-workers", "0"],
    ),
    "featurize": lambda path, data, out: (
        featurize.main, ["--input", data / "valid.tsv", "--output", out, "--model", path, "--cpu", "--format", "npy"],
    ),
    "tokenize": lambda path, data, out: (
        tokenize.main, ["--data-dir", data, "--output-dir", out, "--checkpoint", path, "--splits", "valid", "--cpu"],
    ),
    "convert": lambda path, data, out: (convert.main, [path]),
    "inspect": lambda path, data, out: (convert.main, ["--inspect", path]),
    "transcribe": lambda path, data, out: (transcribe.main, [path, recording(data), "--cpu", "--quiet"]),
    "align": lambda path, data, out: (
        align.main, [path, recording(data), text_of(data, out), "--cpu", "--quiet", "--output-format", "json"],
    ),
    "visualize": lambda path, data, out: (
        visualize.main,
        ["--checkpoint", path, "--data-dir", data / "valid.tsv", "--output-dir", out, "--cpu", "--quiet",
         "--max-points", "12", "--num-samples", "1", "--max-batches", "1", "--seconds", "1"],
    ),
    "perplexity": lambda path, data, out: (lm.main, ["--perplexity", data / "valid.wrd", "--lm", path]),
    "finetune": lambda path, data, out: (
        train.main, [data, "--save-dir", out, *CTC, "--finetune-from-model", path],
    ),
}  # fmt: skip


WRITES_TEXT = ("infer", "transcribe", "align")
DRAWN = ("ctc_base", "vq_kmeans", "no_model")  # a picture of each takes seconds


def recording(data: Path) -> Path:
    root, line, *_ = (data / "valid.tsv").read_text().splitlines()
    return Path(root) / line.split("\t")[0]


def text_of(data: Path, out: Path) -> Path:
    out.with_suffix(".txt").write_text((data / "valid.wrd").read_text().splitlines()[0] + "\n")
    return out.with_suffix(".txt")


@pytest.mark.parametrize("name", [*FAMILIES, "no_model", "onnx_folder"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_model_is_used_or_refused_in_one_line(
    golden: Any, speech: Path, tmp_path: Path, program: str, name: str
) -> None:
    if program == "visualize" and name not in DRAWN:
        pytest.skip("drawn for one model of each outcome")
    path = tmp_path / name if name in ("no_model", "onnx_folder") else model(golden, name)
    if name == "no_model":
        torch.save({"weights": torch.zeros(3)}, path)
    elif name == "onnx_folder":
        path.mkdir()
        (path / "model.onnx").write_bytes(b"\x08\x08")
    main, argv = PROGRAMS[program](path, speech, tmp_path / "out")
    outcome = call(main, argv)
    # What aligns says with 3 that a text was not heard: these models have learned nothing.
    assert outcome.code in ((0, 3) if program == "align" and name == "ctc_base" else (0, 2))
    if program in WRITES_TEXT:
        assert (outcome.code != 2) == (name == "ctc_base"), outcome.err
    if outcome.code == 2:
        assert_one_line(outcome, "ONNX" if name == "onnx_folder" and program in WRITES_TEXT else "")
    else:
        assert name != "no_model"


# ------------------------------------------------------------------------------------------ another sample rate


@pytest.fixture(scope="module")
def telephone(golden: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a model of 8 kHz."""
    folder = tmp_path_factory.mktemp("telephone") / "model"
    assert convert.main([str(model(golden, "ctc_base")), str(folder), "--to", "huggingface"]) == 0
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "sampling_rate": 8000}))
    return folder


def test_programs_give_a_model_the_rate_of_its_folder(telephone: Path, speech: Path, tmp_path: Path) -> None:
    """Recordings of 16 kHz are converted, by all programs alike: the text is that of the converted samples."""
    file = read_model_file(telephone)
    assert file.sample_rate == 8000
    samples, rate = soundfile.read(recording(speech), dtype="float32")
    assert rate == 16000
    loaded = w2v.load_model(telephone)
    expected = w2v.transcribe(soxr.resample(samples, rate, 8000), 8000, model=loaded).text
    assert expected
    for program in ("transcribe", "infer"):
        main, argv = PROGRAMS[program](telephone, speech, tmp_path)
        outcome = call(main, argv)
        assert outcome.code == 0, outcome.err
        assert expected in outcome.out
    main, argv = PROGRAMS["featurize"](telephone, speech, tmp_path / "features")
    assert call(main, argv).code == 0
    (first, *_) = sorted((tmp_path / "features").rglob("*.npy"))
    assert np.load(first).shape[0] < len(samples) / 2 / 300  # frames every 320 samples of 8 kHz


def test_fine_tuning_keeps_the_rate_of_the_model(telephone: Path, speech: Path, tmp_path: Path) -> None:
    """`--w2v-path` must be given the rate, `--finetune-from-model` takes it; another one is refused, not trained on."""
    refused = "was trained on 8000 Hz, this run has --sample-rate 16000"
    command = [speech, "--save-dir", tmp_path, *CTC, "--w2v-path", telephone, "--resample"]
    assert_one_line(call(train.main, command), refused)
    outcome = call(train.main, [*command, "--sample-rate", 8000])
    assert outcome.code == 0, outcome.err
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["config"]["task"]["sample_rate"] == 8000
    command = [speech, "--save-dir", tmp_path / "further", *CTC, "--finetune-from-model", telephone]
    assert "sample_rate: 8000" in call(train.main, [*command, "--print-config"]).out
    assert_one_line(call(train.main, [*command, "--sample-rate", 16000]), refused)


def assert_one_line(outcome: Outcome, message: str) -> None:
    assert outcome.code == 2, outcome.out
    errors = [line for line in outcome.err.splitlines() if re.search(r": error: ", line)]
    assert len(errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert message in errors[0]
