"""`w2v-manifest` against the original's formula, on good, odd and missing files."""

from __future__ import annotations

import csv
import glob
import importlib.util
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v.data.audio import read_audio
from w2v.data.manifest import read_manifest
from w2v.errors import DataError
from w2v_cli import manifest as program
from w2v_cli.manifest import main


def write(path: Path, samples: int = 800, rate: int = 16000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels))
    soundfile.write(str(path), noise, rate)


@pytest.fixture
def folder(tmp_path):
    for i in range(60):
        write(tmp_path / "audio" / f"spk{i % 7}" / "ch [1]" / f"{i}.{'wav' if i % 3 else 'flac'}", 500 + i)
    write(tmp_path / "audio" / ".hidden" / "x.flac")
    return tmp_path


def expected_split(root, extension, seed, share, must=None):
    """The original's loop, with the names it writes."""
    root = os.path.realpath(root)
    draw = random.Random(seed)
    splits = {"train": [root], "valid": [root]}
    for path in glob.iglob(os.path.join(root, "**/*." + extension), recursive=True):
        real = os.path.realpath(path)
        if must and must not in real:
            continue
        frames = soundfile.info(path).frames
        splits["train" if draw.random() > share else "valid"].append(f"{os.path.relpath(real, root)}\t{frames}")
    return splits


def lines(path):
    return path.read_text().splitlines()


@pytest.mark.parametrize(("extension", "seed", "share", "must"), [
    ("wav", 42, 0.01, None), ("flac", 7, 0.3, None), ("wav", 1, 0.5, "spk3"), ("wav", 1, 0, None), ("wav", 3, 1, None),
])  # fmt: skip
def test_the_originals_files(folder, extension, seed, share, must):
    dest = folder / "made" / "here"
    options = [f"--seed={seed}", f"--valid-percent={share}", "--ext", extension, "--dest", str(dest)]
    assert main([str(folder / "audio"), *options, *(["--path-must-contain", must] if must else [])]) == 0
    for split, expected in expected_split(folder / "audio", extension, seed, share, must).items():
        assert lines(dest / f"{split}.tsv") == expected
    assert (dest / "rejects.tsv").read_text() == ""


def test_a_relative_root_with_brackets(folder, monkeypatch):
    monkeypatch.chdir(folder / "audio" / "spk1")
    assert main(["ch [1]", "--ext", "wav", "--dest", str(folder)]) == 0
    assert lines(folder / "train.tsv")[0] == os.path.realpath("ch [1]")
    assert len(read_manifest(folder / "train.tsv")) > 3


def test_several_extensions_and_a_portable_split(folder):
    options = ["--ext", "flac,.wav,flac", "--dest", str(folder), "--sorted", "--valid-percent", "0.4"]
    assert main([str(folder / "audio"), *options]) == 0
    paths = sorted(str(path.relative_to(folder / "audio")) for path in (folder / "audio").glob("spk*/*/*"))
    draw = random.Random(42)
    train = [path for path in paths if draw.random() > 0.4]
    assert [line.split("\t")[0] for line in lines(folder / "train.tsv")[1:]] == train
    assert len(lines(folder / "valid.tsv")) == 1 + 60 - len(train)


def test_rejects_keep_the_split_of_the_others(folder, capsys):
    audio = folder / "audio"
    before = expected_split(audio, "wav", 42, 0.3)
    victims = {name.split("\t")[0]: reason for name, reason in zip(before["train"][2:8], [
        "not readable as audio: empty file", "not readable as audio: Format not recognised",
        "sample rate 8000 Hz, need 16000 Hz", "2 channels, need 1", "399 samples, need at least 400",
        "0 samples, need at least 400",
    ])}  # fmt: skip
    empty, noise, slow, stereo, short, nothing = [audio / name for name in victims]
    empty.write_bytes(b"")
    noise.write_bytes(b"noise" * 100)
    write(slow, rate=8000)
    write(stereo, channels=2)
    write(short, 399)
    write(nothing, 0)
    assert main([str(audio), "--ext", "wav", "--valid-percent", "0.3", "--dest", str(folder)]) == 0
    rejects = dict(line.split("\t") for line in lines(folder / "rejects.tsv"))
    assert rejects.keys() == victims.keys()
    for name, reason in victims.items():
        assert rejects[name].startswith(reason)
    assert lines(folder / "valid.tsv") == before["valid"]
    assert lines(folder / "train.tsv") == [line for line in before["train"] if line.split("\t")[0] not in victims]
    assert "rejects.tsv: 6 files" in capsys.readouterr().out


def test_resampled_files_count_at_the_rate_of_training(tmp_path):
    write(tmp_path / "a" / "x.wav", 8001, rate=8000, channels=2)
    assert main([str(tmp_path / "a"), "--ext", "wav", "--dest", str(tmp_path), "--resample", "--valid-percent=0"]) == 0
    assert lines(tmp_path / "train.tsv")[1] == "x.wav\t16002"
    assert len(lines(tmp_path / "valid.tsv")) == 1
    write(tmp_path / "a" / "x.wav", 8001, rate=8000)
    assert main([str(tmp_path / "a"), "--ext=wav", f"--dest={tmp_path}", "--sample-rate=0", "--valid-percent=0"]) == 0
    assert lines(tmp_path / "train.tsv")[1] == "x.wav\t8001"


def test_probe_finds_damage_behind_a_good_header(tmp_path):
    for name in ("good", "bad"):
        write(tmp_path / "a" / f"{name}.flac", 20000)
    content = (tmp_path / "a" / "bad.flac").read_bytes()
    (tmp_path / "a" / "bad.flac").write_bytes(content[: len(content) // 2])
    options = [str(tmp_path / "a"), "--dest", str(tmp_path), "--valid-percent=0"]
    assert main(options) == 0
    assert len(lines(tmp_path / "train.tsv")) == 3
    assert main([*options, "--probe"]) == 0
    assert lines(tmp_path / "train.tsv")[1:] == ["good.flac\t20000"]
    assert "bad.flac\tnot readable as audio: Error : flac decoder lost sync" in lines(tmp_path / "rejects.tsv")


def test_links_that_lead_back_up_are_followed_once(tmp_path):
    """Two such links in one folder make 2^40 paths to each file."""
    write(tmp_path / "audio" / "deep" / "x.wav")
    write(tmp_path / "elsewhere" / "y.wav")
    for name in ("one", "two"):
        (tmp_path / "audio" / "deep" / name).symlink_to(tmp_path / "audio")
    (tmp_path / "audio" / "self").symlink_to(".")
    (tmp_path / "audio" / "link").symlink_to(tmp_path / "elsewhere")
    assert main([str(tmp_path / "audio"), "--dest", str(tmp_path), "--ext", "wav", "--valid-percent", "0"]) == 0
    listed = read_manifest(tmp_path / "train.tsv")
    assert {listed.name(row) for row in range(len(listed))} == {"deep/x.wav", "link/y.wav"}


def test_names(tmp_path):
    names = ["with space.wav", "ünï.wav", "tab\there.wav", "quote'\".wav", os.fsdecode(b"latin\xe9.wav"), "a..b.wav"]
    for name in names:
        write(tmp_path / "a" / "x.wav")
        os.rename(tmp_path / "a" / "x.wav", tmp_path / "a" / name)
    os.symlink(os.path.realpath(tmp_path / "a" / names[0]), tmp_path / "a" / "link.wav")
    os.symlink(tmp_path / "gone", tmp_path / "a" / "dangling.wav")
    (tmp_path / "a" / "folder.wav").mkdir()
    assert main([str(tmp_path / "a"), "--ext", "wav", "--dest", str(tmp_path), "--valid-percent", "0"]) == 0
    manifest = read_manifest(tmp_path / "train.tsv")
    listed = {manifest.name(row) for row in range(len(manifest))}
    assert listed == {*names, "link.wav"} - {"tab\there.wav"}
    assert all(os.path.isfile(manifest.path(row)) for row in range(len(manifest)))
    assert lines(tmp_path / "rejects.tsv") == ["tab\\there.wav\tits name holds a tab or a line break"]


def test_many_processes_give_the_same_files(folder, monkeypatch):
    found = []
    for jobs, serial in ((1, 1000), (3, 0)):
        monkeypatch.setattr(program, "SERIAL", serial)
        monkeypatch.setattr(program, "CHUNK", 7)
        assert main([str(folder / "audio"), "--ext=wav,flac", f"--dest={folder}", f"--jobs={jobs}"]) == 0
        found.append([(folder / name).read_bytes() for name in ("train.tsv", "valid.tsv", "rejects.tsv")])
    assert found[0] == found[1]


def test_an_interrupted_scan_goes_on(folder, monkeypatch, capsys):
    dest = folder / "made"
    command = [str(folder / "audio"), "--ext=wav,flac", f"--dest={dest}", "--jobs=1", "--valid-percent=0.3"]
    broken = folder / "audio" / "spk1" / "ch [1]" / "1.wav"
    broken.write_bytes(b"noise")
    assert main(command) == 0
    assert sorted(path.name for path in dest.iterdir()) == ["rejects.tsv", "train.tsv", "valid.tsv"]
    whole = [(dest / name).read_bytes() for name in ("train.tsv", "valid.tsv", "rejects.tsv")]
    examined, examine = [], program.examine

    def interrupted(config, path, longest):
        examined.append(path)
        if len(examined) == stop:
            raise KeyboardInterrupt
        return examine(config, path, longest)

    monkeypatch.setattr(program, "examine", interrupted)
    stop = 30
    assert main(command) == 130
    record = dest / program.RECORD
    record.write_bytes(record.read_bytes() + b"17\t1.0\t/torn")
    first, stop = set(examined[:-1]), 0
    changed = next(path for path in examined if path != str(broken))
    os.utime(changed, (record.stat().st_mtime + 10,) * 2)
    examined.clear()
    capsys.readouterr()
    assert main(command) == 0
    # What was rejected, or has been changed since, is looked at again.
    again = {path for path in (str(broken), changed) if path in first}
    assert set(examined) & first == again
    assert len(examined) == 60 - len(first) + len(again)
    assert f"after {len(first) - len(again)} files" in capsys.readouterr().err
    assert [(dest / name).read_bytes() for name in ("train.tsv", "valid.tsv", "rejects.tsv")] == whole
    assert not record.exists()


def test_a_scan_with_other_options_begins_anew(folder, monkeypatch):
    command = [str(folder / "audio"), "--ext=wav,flac", f"--dest={folder}", "--jobs=1"]
    with monkeypatch.context() as patch:
        patch.setattr(program, "write_atomically", lambda *_: pytest.fail("written before the scan was over"))
        patch.setattr(program.random, "Random", lambda seed: iter_then_interrupt(20))
        assert main(command) == 130
    assert len((folder / program.RECORD).read_bytes().splitlines()) > 10
    assert main([*command, "--min-samples=10000"]) == 2
    assert not (folder / program.RECORD).exists()


def iter_then_interrupt(count):
    class Draws:
        drawn = 0

        def random(self):
            self.drawn += 1
            if self.drawn > count:
                raise KeyboardInterrupt
            return 1.0

    return Draws()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/none"], "no folder {root}/none"),
        (["{root}/file"], "{root}/file is not a folder"),
        (["{root}/void"], "no files of audio under {root}/void; it holds no files"),
        (
            ["{root}/a", "--ext", "flac"],
            "no files *.flac under {root}/a; left out 1 files with other endings: 1 .wav",
        ),
        (
            ["{root}/a", "--ext", "wav", "--path-must-contain", "qq"],
            "none of the 1 files *.wav under {root}/a has 'qq'",
        ),
        (["{root}/a", "--ext", "wav", "--min-samples", "10000"], "none of the 1 files under {root}/a can be used"),
        (["{root}/a", "--ext", "wav", "--dest", "{root}/file"], "--dest: cannot make the folder {root}/file"),
        (["{root}/a", "--ext", "wav", "--valid-percent", "5"], "--valid-percent must lie in [0, 1], got 5.0"),
        (["{root}/a", "--ext", "wav", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["{root}/a", "--exts", "wav"], "unknown flag --exts; did you mean --ext?"),
        ([], "root"),
    ],
)
def test_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, message):
    root = os.path.realpath(tmp_path)
    monkeypatch.chdir(tmp_path)  # where --dest is left out, files are written here
    write(tmp_path / "a" / "x.wav")
    (tmp_path / "void").mkdir()
    (tmp_path / "file").touch()
    assert main([argument.format(root=root) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert message.format(root=root) in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_odd_files(data, tmp_path):
    """Each odd file ends in a manifest or among the rejects, as soundfile's recorded verdict says."""
    with open(data / "odd" / "EXPECT.tsv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    extensions = "flac,wav,Flac,WAV,mp3,ogg,opus,aiff,au,caf,sph,voc,w64,m4a,mka,raw,webm,aac"
    options = ["--ext", extensions, "--dest", str(tmp_path), "--resample", "--valid-percent", "0", "--probe"]
    assert main([str(data / "odd"), *options]) == 0
    manifest = read_manifest(tmp_path / "train.tsv")
    used = {manifest.name(row) for row in range(len(manifest))}
    rejected = dict(line.split("\t") for line in lines(tmp_path / "rejects.tsv"))
    hidden = {name for name in rows if Path(name).name.startswith(".") or not Path(name).suffix}
    assert used | rejected.keys() == rows.keys() - hidden
    assert not used & rejected.keys()
    for name in used | rejected.keys():
        verdict = rows[name]["soundfile"]
        is_media = name.endswith((".m4a", ".mka", ".webm", ".aac"))  # PyAV reads them
        broken = ("ERROR" in verdict and not is_media) or "not finite" in verdict
        if is_media:
            assert (name in used) == (importlib.util.find_spec("av") is not None)
            continue
        short = not broken and int(verdict.rsplit(" ", 1)[1]) < 400
        assert (name in rejected) == (broken or short), (name, verdict, rejected.get(name))


def test_as_a_program(folder):
    command = [sys.executable, "-m", "w2v_cli.manifest", str(folder / "audio"), f"--dest={folder}", "--valid-percent=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == (
        "train.tsv: 60 files, 2.0 seconds; valid.tsv: 0 files, 0.0 seconds; rejects.tsv: 0 files\n"
        "valid.tsv is empty: write another set's manifest over it, or train with --disable-validation\n"
        "left out 1 hidden files and folders: .hidden\n"
    )
    assert done.stderr == ""  # no bar where there is no terminal


# ------------------------------------------------------------------------------------------ what is said


def test_a_small_set_has_a_clip_for_validation(tmp_path, capsys):
    for number in range(5):
        write(tmp_path / "a" / f"{number}.wav", 500 + number)
    dest = tmp_path / "out"
    assert main([str(tmp_path / "a"), "--dest", str(dest), "--sorted"]) == 0
    assert len(lines(dest / "valid.tsv")) == 2
    assert len(lines(dest / "train.tsv")) == 5
    assert "--valid-percent 0.01 gave valid.tsv no clip of 5: it has one" in capsys.readouterr().out
    assert main([str(tmp_path / "a"), "--dest", str(dest), "--valid-percent", "1"]) == 0
    assert "--valid-percent 1 left train.tsv empty: lower it" in capsys.readouterr().out
    assert main([str(tmp_path / "a"), "--dest", str(dest), "--sorted"]) == 0
    rng = random.Random(42)
    draws = [rng.random() for _ in range(5)]
    assert lines(dest / "valid.tsv")[1].startswith(f"{draws.index(min(draws))}.wav")


def test_headers_that_lie_are_rejected(tmp_path, capsys):
    write(tmp_path / "a" / "good.wav", 16000)
    folder = tmp_path / "a"
    for name, held, told in (("stale.wav", 4800 * 32000, 600 * 32000), ("nine_hours.wav", 9 * 3600 * 32000, None)):
        told = held if told is None else told
        with open(folder / name, "wb") as file:
            file.write(b"RIFF" + struct.pack("<I", told + 36) + b"WAVEfmt ")
            file.write(struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data" + struct.pack("<I", told))
            file.truncate(44 + held)
    noise = np.random.default_rng(0).normal(size=16000) * 0.1
    for name, form, mark, place, kind in (
        ("small.au", "AU", b".snd", 8, ">I"),
        ("small_rf64.wav", "RF64", b"ds64", 16, "<Q"),
    ):
        soundfile.write(folder / name, noise, 16000, format=form, subtype="PCM_16")
        content = bytearray((folder / name).read_bytes())
        struct.pack_into(kind, content, content.index(mark) + place, 6400)  # bytes of samples
        (folder / name).write_bytes(content)
    soundfile.write(folder / "cut.ogg", noise, 16000, format="OGG", subtype="VORBIS")
    os.truncate(folder / "cut.ogg", 6000)
    assert main([str(folder), "--dest", str(tmp_path / "out"), "--valid-percent", "0"]) == 0
    rejects = dict(line.split("\t") for line in lines(tmp_path / "out" / "rejects.tsv"))
    told = "its header tells of 0.2 s, the file holds 1.0 s"
    for name in ("small.au", "small_rf64.wav"):
        assert rejects[name].startswith(told)
    assert rejects["cut.ogg"].endswith("bytes: it is cut short, or damaged")
    assert lines(tmp_path / "out" / "train.tsv")[1:] == ["good.wav\t16000"]
    assert rejects["stale.wav"].startswith("its header tells of 600.0 s, the file holds 4800.0 s")
    assert rejects["nine_hours.wav"] == "9.0 hours, at most 8 are read; w2v-segment cuts it into clips"
    with pytest.raises(DataError, match="its header tells of"):
        read_audio(str(folder / "stale.wav"), 16000)


def test_a_header_without_a_length_is_named(tmp_path, capsys):
    write(tmp_path / "a" / "good.wav", 16000)
    content = bytearray((tmp_path / "a" / "good.wav").read_bytes())
    content[40:44] = bytes(4)
    (tmp_path / "a" / "pipe.wav").write_bytes(content)
    assert main([str(tmp_path / "a"), "--dest", str(tmp_path), "--valid-percent", "0"]) == 0
    assert lines(tmp_path / "train.tsv")[1:] == ["good.wav\t16000"]
    assert lines(tmp_path / "rejects.tsv")[0].startswith(
        "pipe.wav\tits header tells of 0 samples, and more follow; rep"
    )


def test_what_cropping_loses_is_said(tmp_path, capsys):
    write(tmp_path / "a" / "long.wav", 48000)
    write(tmp_path / "a" / "short.wav", 16000)
    assert (
        main([str(tmp_path / "a"), "--dest", str(tmp_path), "--valid-percent", "0", "--max-sample-size", "32000"]) == 0
    )
    said = capsys.readouterr().out
    assert (
        "1 clips are longer than --max-sample-size 32000 (2.0 s): cropping loses 1.0 seconds of 4.0 seconds in each"
        in said
    )


def test_one_channel_of_several(tmp_path, capsys):
    write(tmp_path / "a" / "two.wav", 8000, channels=2)
    write(tmp_path / "a" / "one.wav", 8000)
    assert main([str(tmp_path / "a"), "--dest", str(tmp_path / "2"), "--channel", "2", "--valid-percent", "0"]) == 0
    assert [line.split("\t")[0] for line in lines(tmp_path / "2" / "train.tsv")[1:]] == ["two.wav"]
    assert lines(tmp_path / "2" / "rejects.tsv") == ["one.wav\t1 channels, and no channel 2"]
    both, rate = soundfile.read(tmp_path / "a" / "two.wav", dtype="float32")
    for channel in (1, 2):
        assert np.array_equal(read_audio(str(tmp_path / "a" / "two.wav"), rate, channel=channel), both[:, channel - 1])
