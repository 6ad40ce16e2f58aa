"""Every odd file goes through every program: decoded, or refused with a reason, and no run ends because of it."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from toy_speech import call, finetuning, pretraining

from w2v.data.manifest import read_manifest, write_manifest
from w2v_cli import featurize, infer, labels, manifest, tokenize, train

EXTENSIONS = "flac,wav,Flac,WAV,mp3,ogg,opus,aiff,au,caf,sph,voc,w64,m4a,mka,raw,webm,aac"
CONV = "[(16, 10, 10)] + [(16, 4, 4)]"
COPIES = 150
"""How often a plain file is listed for training, so that the broken ones are less than one in a hundred."""
UPDATES = 27  # more than an epoch
FRAME, STRIDE = 40, 40  # of CONV, in samples


@dataclass(frozen=True)
class Odd:
    """A folder of odd files.

    Attributes:
        root: the folder.
        readable: name -> samples at 16 kHz; some are shorter than a frame.
        broken: names of the others.
    """

    root: Path
    readable: dict[str, int]
    broken: list[str]

    def write(self, path: Path, names: Sequence[str]) -> None:
        """Write a manifest; broken files claim the length of the plain ones, and so come into all batches."""
        write_manifest(path, str(self.root), names, [self.readable.get(name, 4000) for name in names])


@pytest.fixture(scope="module")
def odd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """The odd collection, the real odd files, and some that cannot be kept in a repository."""
    root = tmp_path_factory.mktemp("odd files")
    (root / "odd").symlink_to(data / "odd")
    (root / "odd_real").symlink_to(data / "odd_real")
    with open(data / "odd" / "EXPECT.tsv", newline="") as file:
        verdicts = {f"odd/{r['path']}": r["soundfile"] for r in csv.DictReader(file, delimiter="\t", quoting=3)}
    with open(data / "odd_real" / "INDEX.tsv", newline="") as file:
        names = [f"odd_real/{row['file']}" for row in csv.DictReader(file, delimiter="\t", quoting=3)]
    readable = {}
    for name, verdict in verdicts.items():
        found = re.search(r"(\d+) Hz, .* read (\d+)$", verdict)
        if found:
            readable[name] = round(int(found[2]) * 16000 / int(found[1]))
    for name in names:
        info = soundfile.info(str(root / name))
        readable[name] = round(info.frames * 16000 / info.samplerate)
    if importlib.util.find_spec("av"):  # libsndfile does not read them, FFmpeg does
        readable |= {f"odd/containers/speech.{ending}": 19200 for ending in ("m4a", "mka", "webm")}
        readable["odd/containers/speech_aac.aac"] = 20480  # ADTS does not say which of its samples are padding
    broken = [*(verdicts.keys() - readable.keys()), *make_broken(root)]
    assert len(readable) > 100
    assert len(broken) > 15
    return Odd(root, readable, sorted(broken))


def make_broken(root: Path) -> list[str]:
    """Write files that would eat memory, keep a worker waiting, or not be found."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(root / "promise.flac", noise, 16000)
    content = bytearray((root / "promise.flac").read_bytes())
    content[21:26] = bytes([content[21] | 0x0F, 255, 255, 255, 255])  # 2^36 - 1 samples, the most a FLAC can claim
    (root / "promise.flac").write_bytes(content[:4000])
    os.mkfifo(root / "pipe.wav")
    (root / "zero.wav").symlink_to("/dev/zero")
    (root / "loop.wav").symlink_to("loop.wav")
    (root / "folder.wav").mkdir()
    soundfile.write(root / "slow.wav", np.zeros(1000), 1)
    soundfile.write(root / "loud.wav", np.full(4000, 3e38, dtype=np.float32), 16000, subtype="FLOAT")
    return ["promise.flac", "pipe.wav", "zero.wav", "loop.wav", "folder.wav", "slow.wav", "loud.wav", "missing.wav"]


def named(text: str, odd: Odd, mark: str) -> list[str]:
    """Return the broken files that lines with `mark` name."""
    lines = [line for line in text.splitlines() if mark in line]
    return sorted(name for line in lines for name in odd.broken if f"{odd.root}/{name}:" in line)


def test_manifest(odd: Odd, tmp_path: Path) -> None:
    command = [odd.root, "--dest", tmp_path, "--ext", EXTENSIONS, "--resample", "--probe", "--valid-percent", 0]
    assert call(manifest.main, command).code == 0
    listed = read_manifest(tmp_path / "train.tsv")
    used = {listed.name(row): int(listed.sizes[row]) for row in range(len(listed))}
    with open(tmp_path / "rejects.tsv", encoding="utf-8") as file:
        rejects = dict(line.rstrip("\n").split("\t") for line in file)
    assert all(rejects.values())
    assert not used.keys() & rejects.keys()
    # What is no file is not looked at; hidden files and those without an extension are not searched for.
    unseen = {"pipe.wav", "zero.wav", "loop.wav", "folder.wav", "missing.wav"}
    unseen |= {name for name in odd.readable if Path(name).name.startswith(".") or not Path(name).suffix}
    unseen |= {name for name in odd.broken if Path(name).name.startswith(".")}
    assert used.keys() | rejects.keys() == (odd.readable.keys() | set(odd.broken)) - unseen
    for name, size in used.items():
        assert abs(size - odd.readable[name]) <= 1152 * 2  # an mp3's header knows its length to within a block


@pytest.fixture(scope="module")
def pretrained(odd: Odd, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model trained on all files by two workers, and what the run said."""
    folder = tmp_path_factory.mktemp("pretraining")
    write_training_set(odd, folder)
    done = call(train.main, training(folder, "whole", 2, UPDATES))
    assert done.code == 0, done.err
    return folder, done.out


def write_training_set(odd: Odd, folder: Path) -> None:
    plain = [name for name in odd.readable if name.startswith("odd/names/")]
    odd.write(folder / "train.tsv", [*plain * COPIES, *odd.readable, *odd.broken])
    odd.write(folder / "valid.tsv", plain)


def training(folder: Path, name: str, workers: int, updates: int) -> list[Any]:
    more = ["--resample", "--num-workers", workers, "--max-update", updates, "--max-tokens", 150000]
    more += ["--max-sample-size", 1000, "--encoder-layers", 1, "--encoder-embed-dim", 16, "--conv-feature-layers", CONV]
    return pretraining(folder, folder / name, *more)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / name / "checkpoint_last.pt", weights_only=True)["model"]
    return found


def test_training_names_each_broken_file_once(odd: Odd, pretrained: tuple[Path, str]) -> None:
    assert named(pretrained[1], odd, "unreadable, replaced by another clip") == odd.broken


def test_replacements_do_not_depend_on_workers_or_restarts(odd: Odd, pretrained: tuple[Path, str]) -> None:
    folder, _ = pretrained
    assert call(train.main, training(folder, "parts", 0, 10)).code == 0
    assert call(train.main, training(folder, "parts", 1, UPDATES)).code == 0
    whole, parts = weights(folder, "whole"), weights(folder, "parts")
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_too_many_broken_files_stop_training_in_one_line(odd: Odd, tmp_path: Path) -> None:
    write_training_set(odd, tmp_path)
    odd.write(tmp_path / "train.tsv", [*odd.readable, *odd.broken])
    done = call(train.main, training(tmp_path, "run", 1, UPDATES))
    assert done.code == 2
    assert "clips read are unreadable, more than 1%" in done.err
    assert done.err.count("\n") == 1


@pytest.fixture(scope="module")
def apart(odd: Odd, tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """The same files, each in a folder of its own: features of speech.au and speech.aiff have one name."""
    root = tmp_path_factory.mktemp("apart")
    names = {name: f"{number}/{name}" for number, name in enumerate([*odd.readable, *odd.broken])}
    for number in range(len(names)):
        (root / str(number)).symlink_to(odd.root)
    return Odd(root, {names[name]: size for name, size in odd.readable.items()}, sorted(names[n] for n in odd.broken))


def test_featurize(apart: Odd, pretrained: tuple[Path, str], tmp_path: Path) -> None:
    apart.write(tmp_path / "all.tsv", [*apart.readable, *apart.broken])
    command = ["--input", tmp_path / "all.tsv", "--output", tmp_path / "out", "--format", "npy", "--resample"]
    done = call(featurize.main, [*command, "--model", pretrained[0] / "whole" / "checkpoint_last.pt", "--cpu"])
    assert done.code == 2
    short = {name: size for name, size in apart.readable.items() if size < FRAME}
    assert f"no features of {len(apart.broken) + len(short)} clips; the first: " in done.err.splitlines()[-1]
    assert named("\n".join(done.err.splitlines()[:-1]), apart, "no features: ") == apart.broken
    for name, size in apart.readable.items():
        path = (tmp_path / "out" / name).with_suffix(".npy")
        if name in short:
            assert f"no features: {apart.root / name}: {size} samples, one frame needs {FRAME}" in done.err
            assert not path.exists()
        else:
            frames = np.load(path)
            assert abs(len(frames) - size / STRIDE) <= 2 + 2304 / STRIDE
            assert np.isfinite(frames).all()


def test_tokenize(apart: Odd, pretrained: tuple[Path, str], tmp_path: Path) -> None:
    names = [*apart.readable, *apart.broken]
    apart.write(tmp_path / "all.tsv", names)
    command = ["--path", pretrained[0] / "whole" / "checkpoint_last.pt", "--output-dir", tmp_path / "out", "--cpu"]
    done = call(tokenize.main, [*command, "--data-dir", tmp_path, "--splits", "all", "--resample"])
    assert done.code == 2
    assert f"no tokens of {len(apart.broken)} clips, whose lines are empty" in done.err.splitlines()[-1]
    lines = (tmp_path / "out" / "all.src").read_text().split("\n")
    assert lines.pop() == ""
    for name, line in zip(names, lines, strict=True):
        assert bool(line) == (apart.readable.get(name, 0) >= FRAME), name


@pytest.fixture(scope="module")
def finetuned(odd: Odd, pretrained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for CTC, trained on the files with odd names; their labels come through w2v-labels."""
    folder = tmp_path_factory.mktemp("finetuning")
    names = [name for name in odd.readable if name.startswith("odd/names/")]
    (folder / "texts.txt").write_text("".join(f"{name}\tAB BA\n" for name in names), encoding="utf-8")
    for split in ("train", "valid"):
        odd.write(folder / f"{split}.tsv", names)
        command = [folder / f"{split}.tsv", "--output-dir", folder, "--output-name", split, "--dict"]
        done = call(labels.main, [*command, "--transcripts", folder / "texts.txt"])
        assert done.code == 0, done.err
    assert (folder / "train.ltr").read_text() == "A B | B A |\n" * len(names)
    more = ["--max-update", 2, "--resample", "--num-workers", 1]
    done = call(train.main, finetuning(folder, folder / "run", pretrained[0] / "whole" / "checkpoint_last.pt", *more))
    assert done.code == 0, done.err
    return folder / "run" / "checkpoint_last.pt"


def test_infer(apart: Odd, finetuned: Path, tmp_path: Path) -> None:
    names = [*apart.readable, *apart.broken]
    apart.write(tmp_path / "test.tsv", names)
    done = call(infer.main, [tmp_path, "--path", finetuned, "--cpu", "--num-workers", 0, "--max-tokens", 200000])
    assert done.code == 1, done.err  # all are there; those that cannot be read are counted and named
    assert sorted(line.split("\t")[0] for line in done.out.splitlines()) == sorted(names)
    empty = [line.split("\t")[0] for line in done.out.splitlines() if not line.split("\t")[1]]
    assert set(apart.broken) <= set(empty)
    assert named(done.err, apart, "unreadable, its transcript is empty: ") == apart.broken


def test_names_that_no_manifest_can_hold(pretrained: tuple[Path, str], tmp_path: Path) -> None:
    names = ["line\nbreak.wav", "tab\tstop.wav", os.fsdecode(b"latin\xe9.wav"), "-dash.wav", "é.wav", "e\u0301.wav"]
    (tmp_path / "-in").mkdir()
    for name in names:
        with open(tmp_path / "-in" / name, "wb") as file:
            soundfile.write(file, np.random.default_rng(0).uniform(-0.5, 0.5, 2000), 16000, format="WAV")
    (tmp_path / "-in" / "bad\nline.wav").write_bytes(b"noise")
    model = pretrained[0] / "whole" / "checkpoint_last.pt"
    command = ["--input", tmp_path / "-in", "--output", tmp_path / "out", "--format", "npy", "--cpu"]
    done = call(featurize.main, [*command, "--model", model])
    assert done.code == 2
    assert "bad\\nline.wav: not readable as audio" in done.err.splitlines()[-1]
    found = {path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".npy"}
    assert found == {f"{Path(name).stem}.npy" for name in names}
    command = [tmp_path / "-in", "--dest", tmp_path, "--ext", "wav", "--valid-percent", 0]
    assert call(manifest.main, command).code == 0
    listed = read_manifest(tmp_path / "train.tsv")
    assert {listed.name(row) for row in range(len(listed))} == set(names[2:])
    rejects = (tmp_path / "rejects.tsv").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in rejects) == ["bad\\nline.wav", "line\\nbreak.wav", "tab\\tstop.wav"]


def test_manifests_that_leave_their_root(
    odd: Odd, pretrained: tuple[Path, str], finetuned: Path, tmp_path: Path
) -> None:
    """Refused by every program, unless a flag allows them; features then still stay inside the output folder."""
    (tmp_path / "root").mkdir()
    source = odd.root / "odd" / "names" / "with space.wav"
    (tmp_path / "beside.wav").symlink_to(source)
    rows = f"../beside.wav\t4000\n{source}\t4000\n"
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.tsv").write_text(f"{tmp_path / 'root'}\n{rows}")
    model, out = pretrained[0] / "whole" / "checkpoint_last.pt", tmp_path / "root" / "out"
    (tmp_path / "texts.txt").write_text(f"../beside.wav\tA\n{source}\tB\n")
    programs: list[tuple[Any, list[Any]]] = [
        (train.main, training(tmp_path, "run", 0, 1)),
        (infer.main, [tmp_path, "--path", finetuned, "--cpu"]),
        (featurize.main, ["--input", tmp_path / "test.tsv", "--output", out, "--model", model, "--format", "npy"]),
        (tokenize.main, ["--path", model, "--output-dir", out, "--data-dir", tmp_path, "--splits", "test"]),
        (labels.main, [tmp_path / "test.tsv", "--output-dir", out, "--output-name", "test",
                       "--transcripts", tmp_path / "texts.txt"]),
    ]  # fmt: skip
    for main, command in programs:
        refused = call(main, command)
        assert refused.code == 2
        assert ".tsv:2: must stay inside the root folder (or give --allow-outside-root), got '../beside" in refused.err
        allowed = call(main, [*command, "--allow-outside-root"])
        assert allowed.code == 0, allowed.err
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*.npy"))
    assert found == sorted(["beside.npy", str(source.relative_to("/").with_suffix(".npy"))])
