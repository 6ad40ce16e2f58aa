"""Data directories of Kaldi: what is listed, which text belongs to which clip, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_speech import call

from w2v.data.audio import read_audio
from w2v.data.kaldi import find_kaldi, read_kaldi
from w2v.data.manifest import read_manifest
from w2v.errors import DataError
from w2v_cli import labels, manifest

soundfile = pytest.importorskip("soundfile")

RATE = 22050


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """Two recordings of 3 and 4 s under names that are not their ids, in folders far from the directory."""
    for name, seconds in (("corpus/x/0001.wav", 3), ("corpus/y z/0001.flac", 4)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(seconds * RATE, dtype=np.float32), RATE)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"ann-1 {tmp_path}/corpus/x/0001.wav\n\nbob-1\t{tmp_path}/corpus/y z/0001.flac \n")
    (folder / "text").write_text("ann-1 ONE, TWO\nbob-1 THREE\ncyd-1 NOT HERE\n")
    (folder / "utt2spk").write_text("ann-1 ann\nbob-1 bob\n")
    return folder


def list_clips(kaldi: Path, *options: Any, code: int = 0) -> Any:
    argv = [kaldi, "--dest", kaldi.parent / "lists", "--valid-percent", 0, "--resample", *options]
    outcome = call(manifest.main, argv)
    assert outcome.code == code, outcome.err
    return outcome


def label(kaldi: Path, *options: Any, code: int = 0) -> Any:
    out = kaldi.parent / "out"
    argv = [kaldi.parent / "lists/train.tsv", "--output-dir", out, "--output-name", "train", "--transcripts", kaldi]
    outcome = call(labels.main, [*argv, *options])
    assert outcome.code == code, outcome.err
    return outcome


def clips(path: Path) -> dict[str, int]:
    listed = read_manifest(path)
    return {listed.name(row): int(listed.sizes[row]) for row in range(len(listed))}


def words(kaldi: Path) -> list[str]:
    return (kaldi.parent / "out/train.wrd").read_text().splitlines()


@pytest.mark.parametrize("by_file", [False, True])
def test_recordings(kaldi: Path, by_file: bool) -> None:
    given = kaldi / "wav.scp" if by_file else kaldi
    argv = [given, "--dest", kaldi.parent / "lists", "--valid-percent", 0, "--resample"]
    outcome = call(manifest.main, argv)
    assert "Kaldi's data directory: 2 recordings" in outcome.out
    assert read_manifest(kaldi.parent / "lists/train.tsv").root == str(kaldi.parent / "corpus")
    assert clips(kaldi.parent / "lists/train.tsv") == {"x/0001.wav": 48000, "y z/0001.flac": 64000}
    outcome = label(kaldi, "--strip-punctuation", "--dict")
    assert words(kaldi) == ["ONE TWO", "THREE"]
    assert "1 texts have no clip" in outcome.out
    (kaldi.parent / "out/train.wrd").unlink()
    label(kaldi, "--strip-punctuation", "--transcripts", given)
    assert words(kaldi) == ["ONE TWO", "THREE"]


def test_segments_are_stretches_with_their_texts(kaldi: Path) -> None:
    (kaldi / "segments").write_text("u3 bob-1 1 -1\nu1 ann-1 0.5 1.5\nu2 ann-1 2 2.5\nu4 ann-1 0 0.01\n")
    (kaldi / "text").write_text("u1 ONE\nu2 TWO\nu3 THREE\nu4 FOUR\n")
    outcome = list_clips(kaldi)
    assert "2 recordings, 4 segments" in outcome.out
    rejects = (kaldi.parent / "lists/rejects.tsv").read_text()
    assert rejects == "x/0001.wav:0:220\t159 samples, need at least 400\n"
    expected = {"x/0001.wav:11025:22050": 16000, "x/0001.wav:44100:11025": 8000, "y z/0001.flac:22050:66150": 48000}
    assert clips(kaldi.parent / "lists/train.tsv") == expected
    label(kaldi)
    assert words(kaldi) == ["ONE", "TWO", "THREE"]
    # Reference: the recordings listed as files, and cut by w2v-labels.
    argv = [kaldi.parent / "corpus", "--dest", kaldi.parent / "files", "--valid-percent", 0, "--resample", "--sorted"]
    assert call(manifest.main, argv).code == 0
    (kaldi.parent / "corpus/x/0001.wav").rename(kaldi.parent / "corpus/x/ann-1.wav")
    listed = kaldi.parent / "files/train.tsv"
    listed.write_text(listed.read_text().replace("x/0001", "x/ann-1"))
    (kaldi / "segments").write_text("u1 ann-1 0.5 1.5\nu2 ann-1 2 2.5\nu3 0001 1 -1\n")
    argv = [listed, "--output-dir", kaldi.parent / "cut", "--output-name", "train", "--segments", kaldi / "segments",
            "--transcripts", kaldi / "text"]  # fmt: skip
    assert call(labels.main, argv).code == 0
    assert (kaldi.parent / "cut/train.wrd").read_text().splitlines() == words(kaldi)
    assert [*clips(kaldi.parent / "cut/train.tsv").values()] == [*expected.values()]


def test_only_the_lengths_of_segments_count(kaldi: Path) -> None:
    """A recording of nine hours, longer than a clip may be; the file is sparse."""
    long, held = kaldi.parent / "corpus/x/0001.wav", 9 * 3600 * 32000
    with open(long, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", held + 36) + b"WAVEfmt ")
        file.write(struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data" + struct.pack("<I", held))
        file.truncate(44 + held)
    (kaldi / "segments").write_text("u1 ann-1 32000.5 32002\nu2 ann-1 0 31000\nu3 bob-1 1 2\n")
    list_clips(kaldi)
    assert clips(kaldi.parent / "lists/train.tsv") == {
        "x/0001.wav:512008000:24000": 24000,
        "y z/0001.flac:22050:22050": 16000,
    }
    rejects = (kaldi.parent / "lists/rejects.tsv").read_text()
    assert rejects == "x/0001.wav:0:496000000\t8.6 hours, at most 8 are read; w2v-segment cuts it into clips\n"
    assert len(read_audio(str(long), 16000, start=512008000, frames=24000)) == 24000
    # The same files without segments: a clip of nine hours is none.
    (kaldi / "segments").unlink()
    list_clips(kaldi)
    assert clips(kaldi.parent / "lists/train.tsv") == {"y z/0001.flac": 64000}


def test_a_part_of_the_utterances(kaldi: Path) -> None:
    """Each split finds its own texts; the draws are those of a folder, one per clip."""
    (kaldi / "segments").write_text("".join(f"u{n} bob-1 {n * 0.4} {n * 0.4 + 0.3}\n" for n in range(9)))
    (kaldi / "text").write_text("".join(f"u{n} {'ABCDEFGHI'[n]}\n" for n in range(9)))
    list_clips(kaldi, "--valid-percent", 0.5)
    found = {}
    for split in ("train", "valid"):
        argv = [kaldi.parent / f"lists/{split}.tsv", "--output-dir", kaldi.parent / "out", "--output-name", split]
        assert call(labels.main, [*argv, "--transcripts", kaldi]).code == 0
        texts = (kaldi.parent / f"out/{split}.wrd").read_text().splitlines()
        starts = [int(name.split(":")[1]) for name in clips(kaldi.parent / f"lists/{split}.tsv")]
        found |= dict(zip(texts, starts, strict=True))
    assert found == {letter: round(n * 0.4 * RATE) for n, letter in enumerate("ABCDEFGHI")}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u1 sph2pipe -f wav x.sph |", r"wav.scp:2: 'sph2pipe -f wav x.sph \|' is a command, and none is run"),
        ("u1 flac -c -d -s x.flac | sox - -t wav -r 8000 - |", "name the audio file itself"),
        ("u1 | cat", "is a command"),
        ("u1 raw.ark:4096", "wav.scp:2: 'raw.ark:4096' leads into Kaldi's archive raw.ark"),
        ("u1", "wav.scp:2: must be a recording's id and the path of its audio, got 'u1'"),
        ("ok other.wav", "wav.scp:2: the recording 'ok' is in .*wav.scp:1 already"),
        ("u1 a.wav", "wav.scp:2: the file .*a.wav' is in .*wav.scp:1 already"),
    ],
)
def test_lines_that_name_no_file(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "wav.scp").write_text(f"ok a.wav\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_kaldi(str(tmp_path))


def test_no_command_is_run(kaldi: Path) -> None:
    touched = kaldi.parent / "touched"
    (kaldi / "wav.scp").write_text(f"u1 touch {touched} |\n")
    assert "is a command" in list_clips(kaldi, code=2).err
    assert not touched.exists()


def test_relative_paths(kaldi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count from the current folder, as in Kaldi, else from the directory; neither: a note and a reason."""
    (kaldi / "wav.scp").write_text("ann-1 corpus/x/0001.wav\nbob-1 ../corpus/y z/0001.flac\ncyd-1 none.wav\n")
    monkeypatch.chdir(kaldi.parent)
    outcome = list_clips(kaldi)
    assert len(clips(kaldi.parent / "lists/train.tsv")) == 2
    assert "1 files of wav.scp do not exist" in outcome.out
    assert "none.wav" in (kaldi.parent / "lists/rejects.tsv").read_text()


def test_what_does_not_fit(kaldi: Path) -> None:
    list_clips(kaldi)
    (kaldi / "text").unlink()
    assert "data/text: No such file" in label(kaldi, code=2).err
    (kaldi / "text").write_text("ann-1 ONE\nann-1 TWO\n")
    assert "text:2: 'ann-1' has another text in" in label(kaldi, code=2).err
    (kaldi / "text").write_text("ann-1 ONE\n")
    assert "1 of 2 clips have no text: y z/0001.flac; --drop-missing" in label(kaldi, code=2).err
    assert "--segments and a data directory" in label(kaldi, "--segments", "x", code=2).err
    argv = [kaldi.parent / "lists/train.tsv", "--output-dir", kaldi.parent / "out", "--output-name", "train", "--by-id"]
    outcome = call(labels.main, [*argv, "--transcripts", kaldi / "text"])
    assert "have the same id '0001'; match them by path, or clips of Kaldi's wav.scp by its directory" in outcome.err
    (kaldi.parent / "lists/train.tsv").write_text(f"{kaldi.parent}/corpus\nx/0001.wav\t48000\n")
    outcome = call(labels.main, [*argv, "--transcripts", kaldi / "text"])
    list_clips(kaldi)
    assert f"give the directory: --transcripts {kaldi}" in outcome.err
    assert "are for tables" in label(kaldi, "--text-column", "2", code=2).err
    (kaldi / "segments").write_text("u1 dan 0 1\n")
    assert "segments:1: no recording of wav.scp is called 'dan'" in list_clips(kaldi, code=2).err
    (kaldi / "segments").write_text("u1 ann-1 0 1\nu2 ann-1 8 9\n")
    assert "has no utterance that is a clip of the manifest" in label(kaldi, code=2).err  # lists whole recordings
    outcome = list_clips(kaldi)
    assert "1 recordings without a segment: bob-1" in outcome.out
    assert "begins at 8 s, behind the end of x/0001.wav" in (kaldi.parent / "lists/rejects.tsv").read_text()
    (kaldi / "segments").write_text("u2 ann-1 8 9\n")
    assert "none of the 1 clips under" in list_clips(kaldi, code=2).err


def test_a_folder_of_audio_is_none(kaldi: Path) -> None:
    assert find_kaldi(str(kaldi.parent)) is None
    outcome = call(manifest.main, [kaldi.parent, "--dest", kaldi.parent / "lists", "--resample", "--ext", "wav"])
    assert "Kaldi" not in outcome.out
    assert "no files *.wav" in list_clips(kaldi, "--ext", "wav", code=2).err  # a folder again
