"""`w2v-convert` from the command line, and the other programs on what it reads and writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v.convert import read_model_file
from w2v.inference.load import load_model
from w2v_cli import convert, infer

REPOSITORY = Path(__file__).resolve().parents[2]


def checkpoint(golden: Path, name: str, generation: str = "g1_args") -> Path:
    return golden / "checkpoints" / generation / f"{name}.pt"


@pytest.mark.parametrize("generation", ["g1_args", "g2_dictconfig", "g3_cfg"])
def test_inspect(golden: Path, capsys: pytest.CaptureFixture[str], generation: str) -> None:
    kinds = {"g1_args": "args", "g2_dictconfig": "cfg of omegaconf", "g3_cfg": "cfg of plain dicts"}
    for name in ("w2v1", "vq_gumbel", "vq_kmeans", "w2v2_base", "w2v2_large", "ctc_base", "ctc_large"):
        path = checkpoint(golden, name, generation)
        state = torch.load(path.with_suffix(".io.pt"), weights_only=True)
        assert convert.main(["--inspect", str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        loaded = load_model(path)
        capsys.readouterr()
        numel = sum(tensor.numel() for tensor in loaded.model.state_dict().values())
        assert f"kind: fairseq, {kinds[generation]}" in lines
        assert lines[3].startswith(f"parameters: {numel:,} in {len(loaded.model.state_dict())} tensors (float32, ")
        assert f"updates: {loaded.num_updates}" in lines
        assert f"audio: 16000 Hz, {'normalised per clip' if state['normalized'] else 'as it is'}" in lines
        assert any(line.startswith("dictionary: 32 symbols, from ") for line in lines) == name.startswith("ctc")
        place = "model.w2v_args" if name.startswith("ctc") else "model"
        assert any(line.startswith(f"{place}.conv_feature_layers: ") for line in lines)


def test_inspecting_reads_no_weights(tmp_path: Path) -> None:
    """Only the pages of the configuration are touched: 200 MB of weights cost next to no memory."""
    code = f"""
import resource, sys, torch
from pathlib import Path
from w2v.checkpoint.file import save_checkpoint
from w2v_cli import convert
path = Path({str(tmp_path)!r}) / "x.pt"
if sys.argv[1] == "write":
    state = {{f"t{{i}}": torch.zeros(1000, 5000) for i in range(10)}}
    config = {{"task": {{"_name": "audio_pretraining"}}, "model": {{"_name": "x"}}}}
    save_checkpoint(path, {{"config": config, "model": state}})
else:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert convert.main(["--inspect", str(path)]) == 0
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for mode in ("write", "read"):
        done = subprocess.run(
            [sys.executable, "-c", code, mode], env=environ, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert "parameters: 50,000,000 in 10 tensors (float32, 200.0 MB)" in done.stdout
    assert int(done.stdout.splitlines()[-1]) < 50


def test_a_way_through_all_formats(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    source = checkpoint(golden, "ctc_large_w2vargs")
    steps = [
        ("huggingface", "folder"), ("fairseq", "a.pt"), ("safetensors", "b.safetensors"), ("w2v", "c.pt"),
        ("huggingface", "folder2"), ("w2v", "d.pt"),
    ]  # fmt: skip
    flags = {"folder": ["--new-weight-norm"], "folder2": ["--pytorch-bin"]}
    at = source
    for form, name in steps:
        assert convert.main([str(at), str(tmp_path / name), "--to", form, *flags.get(name, [])]) == 0
        said = capsys.readouterr().out
        assert f"{tmp_path / name}: {form}, wav2vec_ctc of " in said
        at = tmp_path / name
    first, last = read_model_file(source), read_model_file(at)
    assert first.state.keys() == last.state.keys()
    assert all(torch.equal(tensor, last.state[name]) for name, tensor in first.state.items())
    assert load_model(source).model.config == load_model(at).model.config
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("", "needs SOURCE, DESTINATION and --to"),
        ("{0}", "needs SOURCE, DESTINATION and --to"),
        ("{0} {1}/x.pt", "needs SOURCE, DESTINATION and --to"),
        ("{0} {1}/x.pt --to onx", "did you mean 'onnx'"),
        ("{0} {1}/no/x.pt --to w2v", "there is no folder"),
        ("{0} {1} --to fairseq", "is a folder; --to fairseq writes a file"),
        ("{0} {1}/a-file --to huggingface", "is a file; --to huggingface writes a folder"),
        ("{1}/none.pt {1}/x.pt --to w2v", "there is no such checkpoint"),
        ("--inspect {0} --to w2v", "--inspect takes the file by itself"),
        ("{0} {1}/x.pt --to w2v --dict {1}/none.txt", "none.txt"),
        ("{1}/a-file {1}/x.pt --to w2v", "cannot be read"),
    ],
)
def test_mistakes(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, wanted: str) -> None:
    (tmp_path / "a-file").write_text("no checkpoint at all, but long enough to be looked at")
    argv = command.format(checkpoint(golden, "ctc_base_w2vargs"), tmp_path).split()
    assert convert.main(argv) == 2
    said = capsys.readouterr().err
    assert wanted in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_nothing_is_written_of_tensors_that_do_not_fit(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint(golden, "w2v2_base", "g3_cfg"), weights_only=True)
    del content["model"]["layer_norm.bias"]
    torch.save(content, tmp_path / "x.pt")
    assert convert.main([str(tmp_path / "x.pt"), str(tmp_path / "y"), "--to", "huggingface"]) == 2
    assert "missing layer_norm.bias" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with clips of mixed lengths, and texts."""
    soundfile = pytest.importorskip("soundfile")
    lengths = [16000, 9001, 12345, 4000, 15555, 800, 8000, 11111, 6400, 14001, 2222, 10007]
    generator = np.random.default_rng(1)
    for row, length in enumerate(lengths):
        soundfile.write(tmp_path / f"clip{row}.wav", 0.1 * generator.standard_normal(length), 16000, subtype="PCM_16")
    rows = [f"clip{row}.wav\t{length}" for row, length in enumerate(lengths)]
    (tmp_path / "test.tsv").write_text("\n".join([str(tmp_path), *rows]) + "\n")
    (tmp_path / "test.ltr").write_text("H E L L O | Y O U |\n" * len(lengths))
    return tmp_path


@pytest.mark.parametrize("name", ["ctc_base_w2vargs", "ctc_large_w2vargs"])
def test_transcripts_do_not_change_with_the_batch_or_the_format(
    golden: Path, clips: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = checkpoint(golden, name)
    assert convert.main([str(source), str(clips / "folder"), "--to", "huggingface", "--pytorch-bin"]) == 0
    texts = []
    for path in (source, clips / "folder"):
        for max_tokens in (16000, 48000, 4_000_000):
            out = clips / f"out-{max_tokens}-{path.name}"
            command = f"{clips} --path {path} --gen-subset test --results-path {out} --labels ltr --num-workers 0 --cpu"
            assert infer.main([*command.split(), "--max-tokens", str(max_tokens)]) == 0
            said = capsys.readouterr().out
            rate = next(line.split("WER: ")[1].split()[0] for line in said.splitlines() if "WER: " in line)
            units = sorted(next(out.glob("hypo.units*")).read_text().splitlines())
            texts.append((rate, units))
    assert all(text == texts[0] for text in texts)
    assert len(texts[0][1]) == 12


def test_labels_of_ones_own(golden: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`w2v-infer --dict` names the labels of a checkpoint without any."""
    letters = read_model_file(checkpoint(golden, "ctc_base_w2vargs")).symbols
    assert letters is not None
    lines = [f"{symbol.lower()} 1" for symbol in letters[4:]]
    (clips / "mine.txt").write_text("\n".join(lines) + "\n")
    command = f"{clips} --path {checkpoint(golden, 'ctc_base_w2vargs')} --gen-subset test --num-workers 0 --cpu"
    assert infer.main(command.split()) == 0
    upper = capsys.readouterr().out
    assert infer.main([*command.split(), "--dict", str(clips / "mine.txt")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        name + tab + text.lower() for name, tab, text in (line.partition("\t") for line in upper.splitlines())
    ]
    assert upper != upper.lower()
