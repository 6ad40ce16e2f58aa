"""`w2v-infer` on emissions that the original's decoders were run on: its commands, its error rates, sclite's counts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import Outcome, call

from w2v.inference.emission_file import EmissionFile, EmissionInfo, EmissionWriter
from w2v_cli import infer

RUN = "runs_head_silence_is_bar.pt"
STRIDE = 320
NAME = "model.pt-test"


@dataclass(frozen=True)
class Recorded:
    """A folder of data, a file of emissions, and what the original made of them."""

    folder: Path
    emissions: Path
    runs: list[dict[str, Any]]
    references: list[str]
    models: Path

    def infer(self, *flags: Any, data: Path | None = None) -> Outcome:
        command = [data or self.folder, "--load-emissions", self.emissions, "--log-format", "none", *flags]
        return call(infer.main, command)


@pytest.fixture(scope="module")
def recorded(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    content = torch.load(golden / "decoder" / RUN, weights_only=True)
    folder = tmp_path_factory.mktemp("recorded")
    info = EmissionInfo("model.pt", content["symbols"], "letter", "ltr", 16000, STRIDE, 40.0)
    names = [f"speaker{number % 3}/clip{number}.flac" for number in range(len(content["emissions"]))]
    with EmissionWriter(folder / "e.safetensors", info, names) as writer:
        for name, log_probs in zip(names, content["emissions"], strict=True):
            writer.add(name, STRIDE * len(log_probs), log_probs)
    sizes = [STRIDE * len(log_probs) for log_probs in content["emissions"]]
    lines = [f"{name}\t{size}\n" for name, size in zip(names, sizes, strict=True)]
    # Neither audio nor its folder is there.
    (folder / "test.tsv").write_text("/no/such/folder\n" + "".join(lines))
    letters = [" ".join(f"{text} ".replace(" ", "|")) for text in content["references"]]
    (folder / "test.ltr").write_text("".join(f"{line}\n" for line in letters))
    return Recorded(folder, folder / "e.safetensors", content["runs"], content["references"], golden / "decoder")


def flags_of(run: dict[str, Any], models: Path) -> list[Any]:
    flags = ["--w2l-decoder", run["decoder"]]
    for name, value in run["options"].items():
        flags += [f"--{name.replace('_', '-')}", models / value if name in ("kenlm_model", "lexicon") else value]
    return flags


def test_error_rates_and_transcripts_of_all_recorded_runs(recorded: Recorded, tmp_path: Path) -> None:
    for number, run in enumerate(recorded.runs):
        out = recorded.infer(*flags_of(run, recorded.models), "--results-path", tmp_path / str(number))
        assert out.code == 0, out.err
        assert f"WER: {run['wer']:.2f} % " in out.out
        lines = (tmp_path / str(number) / f"hypo.word-{NAME}.txt").read_text().splitlines()
        expected = {f"{nbest[0]['text']} (None-{row})" for row, nbest in enumerate(run["hypos"])}
        assert len(lines) == len(expected)
        assert set(lines) == expected


PUBLISHED = (
    "{data} --task audio_pretraining --nbest 1 --path /path/to/model --gen-subset test --results-path {out} "
    "--w2l-decoder {decoder} --criterion ctc --labels ltr --max-tokens 4000000 --post-process letter "
)
WEIGHED = "--lm-model {model} --lm-weight 2 --word-score -1 --sil-weight 0"


WEIGHTS = {"lm_weight": 2.0, "word_score": -1.0}


@pytest.mark.parametrize("decoder", ["viterbi", "kenlm", "fairseqlm"])
def test_published_commands(recorded: Recorded, tmp_path: Path, decoder: str) -> None:
    """As printed in the wav2vec README of October 2020, without `--lexicon`; here over cached emissions."""
    files = {"kenlm_model", "lexicon"}
    run = next(
        run for run in recorded.runs
        if run["decoder"] == decoder and {k: v for k, v in run["options"].items() if k not in files} in ({}, WEIGHTS)
    )  # fmt: skip
    command = PUBLISHED.format(data=recorded.folder, out=tmp_path, decoder=decoder)
    if decoder != "viterbi":
        command += WEIGHED.format(model=recorded.models / run["options"]["kenlm_model"])
    out = call(infer.main, [*command.split(), "--load-emissions", recorded.emissions])
    assert out.code == 0, out.err
    # The lexicon of the recorded run spells the words of its language model.
    assert f"WER: {run['wer']:.2f} % " in out.out
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == [f"{kind}-model-test.txt" for kind in ("hypo.units", "hypo.word", "ref.units", "ref.word")]


def test_workers_ranks_and_shards_change_nothing(recorded: Recorded, tmp_path: Path) -> None:
    run = next(run for run in recorded.runs if run["options"].get("nbest", 1) > 1)
    flags = [*flags_of(run, recorded.models), "--ctm", "--trn", "--batch-size", 2]
    folders = {}
    for workers in (0, 3):
        assert recorded.infer(*flags, "--decode-workers", workers, "--results-path", tmp_path / str(workers)).code == 0
        folders[workers] = contents(tmp_path / str(workers))
    assert len(folders[0]) == 9
    assert folders[0] == folders[3]
    for shard in (0, 1):
        shutil.copy(recorded.emissions, tmp_path / f"{shard}_e")
        more = ["--num-shards", 2, "--shard-id", shard, "--results-path", tmp_path / "shards"]
        assert recorded.infer(*flags, "--load-emissions", tmp_path / "e", *more).code == 0
    shards = contents(tmp_path / "shards")
    for name, text in folders[0].items():
        halves = shards[f"0_{name}"].splitlines() + shards[f"1_{name}"].splitlines()
        assert sorted(halves) == sorted(text.splitlines())


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_words_lie_where_they_were_put(recorded: Recorded, tmp_path: Path) -> None:
    """Emissions that hold `TWO` in frames 3 to 7 and `SIX` in frames 20 to 24, a frame per letter but the last."""
    symbols = EmissionFile(recorded.emissions).info.symbols
    path = [0] * 30
    for start, word in ((3, "TWO"), (20, "SIX")):
        for place, letter in enumerate(f"{word}{word[-1] * 2}|"):
            path[start + place] = symbols.index(letter)
    peak = 0.8
    scores = torch.full((30, len(symbols)), (1 - peak) / (len(symbols) - 1))
    scores[torch.arange(30), path] = peak
    info = EmissionInfo("m.pt", symbols, "letter", "ltr", 16000, STRIDE, 40.0)
    with EmissionWriter(tmp_path / "e", info, ["ann/x.wav"]) as writer:
        writer.add("ann/x.wav", 30 * STRIDE, scores.log())
    (tmp_path / "test.tsv").write_text(f"/gone\nann/x.wav\t{30 * STRIDE}\n")
    (tmp_path / "test.ltr").write_text("T W O | S I X |\n")
    lm = ["--w2l-decoder", "kenlm", "--lm-model", recorded.models / "digits.arpa", "--beam", 50]
    for number, decoder in enumerate(([], lm)):
        flags = ["--load-emissions", tmp_path / "e", "--ctm", "--results-path", tmp_path / str(number), *decoder]
        assert recorded.infer(*flags, data=tmp_path).code == 0
        assert (tmp_path / str(number) / "hypo-m.pt-test.ctm").read_text().splitlines() == [
            # Frame t stands for 320 samples from 40 + 320 t on.
            "ann-ann.x 1 0.062 0.100 TWO 0.800",
            "ann-ann.x 1 0.403 0.100 SIX 0.800",
        ]
        stm = (tmp_path / str(number) / "ref-m.pt-test.stm").read_text()
        assert stm == "ann-ann.x 1 ann 0.000 0.600 TWO SIX\n"


def test_sclite_and_jiwer_count_the_same(recorded: Recorded, tmp_path: Path) -> None:
    jiwer = pytest.importorskip("jiwer")
    flags = ["--trn", "--ctm", "--per-speaker", "--results-path", tmp_path]
    out = recorded.infer(*flags)
    found = {row: nbest[0]["text"] for row, nbest in enumerate(recorded.runs[0]["hypos"])}
    for group in (None, 0, 1, 2):
        rows = [row for row in found if group is None or row % 3 == group]
        theirs = jiwer.process_words([recorded.references[row] for row in rows], [found[row] for row in rows])
        words = theirs.hits + theirs.substitutions + theirs.deletions
        name = "Sum" if group is None else f"speaker{group}"
        line = next(line for line in out.out.splitlines() if line.startswith("WER" if group is None else name))
        counts = line.split("(")[1].replace(",", "").split()
        assert int(counts[0]) + int(counts[2]) + int(counts[4]) == round(theirs.wer * words)
        assert (counts[7], counts[10]) == (str(words), str(len(rows)))
        for reference, hypothesis in (("trn", "trn"), ("stm", "ctm")):
            assert sclite_row(tmp_path, reference, hypothesis, name) == [counts[i] for i in (0, 4, 2)]


def sclite_row(folder: Path, reference: str, hypothesis: str, name: str) -> list[str]:
    """Return the substitutions, deletions and insertions of a speaker, or of all (`Sum`), from sclite's table."""
    if shutil.which("sctk") is None:
        pytest.skip("sclite is not installed (Debian package sctk)")
    command = ["sctk", "sclite", "-r", folder / f"ref-{NAME}.{reference}", reference]
    command += ["-h", folder / f"hypo-{NAME}.{hypothesis}", hypothesis, "-i", "spu_id", "-o", "rsum", "stdout"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = next(line.replace("|", " ").split() for line in table.splitlines() if line.split()[1:2] == [name])
    return row[4:7]


def test_interval_and_alignment(recorded: Recorded) -> None:
    flags = ["--bootstrap", 500, "--print-alignment"]
    lines, again = (recorded.infer(*flags).err.splitlines() for _ in range(2))
    assert lines[-1] == again[-1]
    low, high = (float(text) for text in re.findall(r"[0-9.]+", lines[-1])[1:3])
    wer, sub, ins, deleted = (float(text) for text in re.findall(r"[0-9.]+", lines[-2])[:4])
    assert 0 <= low < wer < high
    assert lines[-1].endswith(f"(500 drawings of {len(recorded.references)} sentences)")
    marks = "".join(line.removeprefix("Eval:") for line in lines if line.startswith("Eval:"))
    assert [marks.count(kind) for kind in "SID"] == [sub, ins, deleted]


def test_a_manifest_with_other_clips(recorded: Recorded, tmp_path: Path) -> None:
    text = (recorded.folder / "test.tsv").read_text().splitlines()
    (tmp_path / "test.tsv").write_text("\n".join([*text[:3], "new.flac\t900"]) + "\n")
    out = recorded.infer(data=tmp_path)
    assert out.code == 2
    assert f"has no emissions of new.flac ({tmp_path}/test.tsv:4)" in out.err
    # A part of the clips will do.
    (tmp_path / "test.tsv").write_text("\n".join(text[:3]) + "\n")
    assert recorded.infer(data=tmp_path).out.count("\t") == 2


def test_the_file_says_what_it_is(recorded: Recorded) -> None:
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(recorded.emissions, framework="np") as file:
        assert json.loads(file.metadata()["stride"]) == STRIDE
        assert np.isfinite(file.get_tensor("log_probs")).all()
