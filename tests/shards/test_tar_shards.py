"""Tar shards: what `w2v-manifest --shards` writes, what it makes of the tars of others, and the clips in both."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from clip_files import manifest_program, write_clips

from w2v.data.dataset import AudioDataset
from w2v.data.iterator import EpochIterator
from w2v.data.manifest import read_manifest
from w2v.errors import DataError, ShardError
from w2v.shards.member import Place, parse_place, shown
from w2v.shards.tar_file import read_files, samples, split_name
from w2v_cli import shard_writer


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    manifest = write_clips(folder / "files", 24)
    code, out, err = manifest_program(manifest, "--shards", folder / "shards", "--shard-size", "50K")
    assert code == 0, err
    assert "24 clips in" in out
    return folder


def tar_of(*files, form=tarfile.USTAR_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def samples_of(content):
    return [(s.key, list(s.fields)) for s in samples(read_files(io.BytesIO(content), "x.tar"), "x.tar")]


# ------------------------------------------------------------------------------------------------------ what is written


def test_the_shards_are_ordinary_tars_of_adjacent_files(packed):
    shards = sorted((packed / "shards").glob("train-*.tar"))
    assert len(shards) > 2
    assert all(path.stat().st_size <= 50 * 1024 for path in shards)
    names = []
    for path in shards:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}
        names += [m.name for m in members]
        listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True).stdout.split()
        assert listed == [m.name for m in members]
    files = read_manifest(packed / "files/train.tsv")
    stems = [files.name(row).rpartition(".")[0] for row in range(len(files))]
    kinds = [files.name(row).rpartition(".")[2] for row in range(len(files))]
    assert names == [f"{stem}.{end}" for stem, kind in zip(stems, kinds) for end in (kind, "ltr", "wrd")]


def test_webdataset_reads_them_back(packed):
    wds = pytest.importorskip("webdataset")
    shards = sorted(map(str, (packed / "shards").glob("train-*.tar")))
    found = list(wds.WebDataset(shards, shardshuffle=False))
    files = read_manifest(packed / "files/train.tsv")
    assert len(found) == len(files)
    words = (packed / "files/train.wrd").read_text().split()
    for row, sample in enumerate(found):
        audio = sample.get("flac") or sample.get("wav")
        assert audio == Path(files.path(row)).read_bytes()
        assert sample["wrd"].decode().strip() == words[row]


def test_clips_and_labels_are_those_of_the_files(packed):
    files, shards = (AudioDataset(read_manifest(packed / kind / "train.tsv"), pad=True, normalize=True)
                     for kind in ("files", "shards"))  # fmt: skip
    rows = np.arange(len(files))
    a, b = files.batch(rows, 1), shards.batch(rows, 1)
    assert np.array_equal(a.source.numpy(), b.source.numpy())
    for kind in ("ltr", "wrd"):
        assert (packed / "files" / f"train.{kind}").read_bytes() == (packed / "shards" / f"train.{kind}").read_bytes()
    assert (packed / "shards/dict.ltr.txt").exists()
    manifest = read_manifest(packed / "shards/train.tsv")
    assert manifest.title(0) == read_manifest(packed / "files/train.tsv").name(0)


def test_the_same_clips_give_the_same_bytes_also_after_an_interruption(packed, tmp_path, monkeypatch):
    write, done = shard_writer._write_shard, []

    def dies(path, clips, size):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        return write(path, clips, size)

    arguments = (packed / "files/train.tsv", "--shards", tmp_path, "--shard-size", "50K")
    monkeypatch.setattr(shard_writer, "_write_shard", dies)
    assert manifest_program(*arguments)[0] == 130
    assert not (tmp_path / "train.tsv").exists()
    monkeypatch.setattr(shard_writer, "_write_shard", lambda *a: done.append(a[0]) or write(*a))
    assert manifest_program(*arguments)[0] == 0
    assert len(set(done)) == len(done)  # none was written twice
    for path in sorted((packed / "shards").iterdir()):
        there = (tmp_path / path.name).read_bytes()
        assert there == path.read_bytes().replace(bytes(packed / "shards"), bytes(tmp_path)), path


def test_stretches_and_dots_become_clips_of_their_own(tmp_path):
    write_clips(tmp_path, 2, first=8000)
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    one = lines[1].split("\t")[0]
    other = one.replace("000", "000.x")
    (tmp_path / "audio" / other).write_bytes((tmp_path / "audio" / one).read_bytes())
    (tmp_path / "cut.tsv").write_text("\n".join([lines[0], f"{one}:100:3000\t3000", f"{other}\t8000"]) + "\n")
    assert manifest_program(tmp_path / "cut.tsv", "--shards", tmp_path / "s")[0] == 0
    a, b = (AudioDataset(read_manifest(tmp_path / name / "cut.tsv"), pad=True).batch([0, 1], 0) for name in ("", "s"))
    assert np.array_equal(a.source.numpy(), b.source.numpy())
    with tarfile.open(tmp_path / "s/cut-000000.tar") as tar:
        assert all("." not in name.rpartition("/")[2].rpartition(".")[0] for name in tar.getnames())


# ------------------------------------------------------------------------------------- the tars of others


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.b/x_1.seg.flac", ("a.b/x_1", "seg.flac")), ("x.WAV", ("x", "wav")), ("x", None), (".x", None),
     ("dir/.x", ("dir/", "x")), ("a/b.c.d.e", ("a/b", "c.d.e"))],
)  # fmt: skip
def test_key_and_field(name, expected):
    assert split_name(name) == expected


def test_samples_are_neighbours(tmp_path):
    found = samples_of(tar_of(("a.wav", b"1"), ("a.txt", b"2"), ("b.txt", b"3"), ("b.flac", b"4"), ("a.wav", b"5"),
                              ("__meta__.x", b"6"), ("noext", b"7")))  # fmt: skip
    assert found == [("a", ["wav", "txt"]), ("b", ["txt", "flac"]), ("a", ["wav"])]
    with pytest.raises(DataError, match="the sample 'a' has the field 'wav' twice"):
        samples_of(tar_of(("a.wav", b"1"), ("a.WAV", b"2")))


def test_links_and_long_names_and_places(tmp_path):
    buffer = io.BytesIO()
    long = f"{'d' * 120}/{'ä' * 60}.wav"
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("x.wav", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        info = tarfile.TarInfo(long)
        info.size = 700
        tar.addfile(info, io.BytesIO(bytes(range(7)) * 100))
    (file,) = read_files(io.BytesIO(buffer.getvalue()), "x.tar")
    assert file.name == long
    assert buffer.getvalue()[file.offset : file.offset + 700] == bytes(range(7)) * 100 == file.content
    assert file.crc == zlib.crc32(file.content)


def test_damaged_and_compressed_tars_are_refused():
    content = tar_of(("a.wav", bytes(5000)), ("b.wav", bytes(5000)))
    with pytest.raises(DataError, match=r"x.tar: is compressed \(gzip\)"):
        samples_of(gzip.compress(content))
    with pytest.raises(DataError, match="damaged at byte 5632"):
        samples_of(content[:5632] + b"x" * 512 + content[6144:])
    with pytest.raises(DataError, match=r"x.tar"):
        samples_of(content[:3000])


def test_foreign_tars_are_listed_with_their_texts(packed, tmp_path):
    audio = {path.name: path.read_bytes() for path in sorted((packed / "files/audio/a.b").iterdir())[:4]}
    (one, two, three, four) = audio
    (tmp_path / "f").mkdir()
    files = [("p/1.txt", b"one two\n"), (f"p/1.{one.rpartition('.')[2]}", audio[one]), ("p/2.wav", audio[two][:30]),
             (f"p/3.noisy.{three.rpartition('.')[2]}", audio[three]), ("p/4.json", b"{}")]  # fmt: skip
    (tmp_path / "f/train-0.tar").write_bytes(tar_of(*files))
    (tmp_path / "f/dev-0.tar").write_bytes(tar_of((f"q.{four.rpartition('.')[2]}", audio[four])))
    code, _, err = manifest_program(tmp_path / "f", "--ext", "tar", "--dest", tmp_path / "m")
    assert code == 0, err
    train, valid = (read_manifest(tmp_path / f"m/{split}.tsv") for split in ("train", "valid"))
    assert [train.title(row).rpartition(".")[0] for row in range(len(train))] == ["p/1", "p/3.noisy"]
    assert len(valid) == 1
    assert (tmp_path / "m/train.transcripts.tsv").read_text().split("\t")[1] == "one two\n"
    rejects = (tmp_path / "m/rejects.tsv").read_text()
    assert "p/2.wav" in rejects
    assert "no audio among its fields json" in rejects
    assert AudioDataset(train, pad=True).batch([0, 1], 0).source.shape[0] == 2
    assert manifest_program(tmp_path / "m/train.tsv", "--check")[0] == 0


def test_an_empty_validation_set_is_named(packed, tmp_path):
    code, out, err = manifest_program(packed / "shards", "--ext", "tar", "--dest", tmp_path, "--valid-percent", 0)
    assert code == 0, err
    assert "valid.tsv is empty: write another set's manifest over it" in out


def test_a_compressed_tar_is_unpacked_when_asked(packed, tmp_path):
    content = (packed / "shards/train-000000.tar").read_bytes()
    (tmp_path / "train-000000.tar.gz").write_bytes(gzip.compress(content))
    code, _, err = manifest_program(tmp_path, "--ext", "tar.gz", "--dest", tmp_path / "m")
    assert code == 2
    assert "--stream-only" in err
    code, _, err = manifest_program(tmp_path, "--ext", "tar.gz", "--dest", tmp_path / "m", "--stream-only")
    assert code == 0, err
    ours = (packed / "shards/train.tsv").read_text().splitlines()[1:]
    theirs = (tmp_path / "m/train.tsv").read_text().splitlines()[1:]
    assert theirs == ours[: len(theirs)]


def test_a_clip_without_the_label_of_the_others_is_counted(packed, tmp_path):
    audio = [(path.suffix, path.read_bytes()) for path in sorted((packed / "files/audio/a.b").iterdir())[:2]]
    (tmp_path / "train.tar").write_bytes(tar_of((f"a{audio[0][0]}", audio[0][1]), ("a.ltr", b"A B |"),
                                                (f"b{audio[1][0]}", audio[1][1])))  # fmt: skip
    code, out, _ = manifest_program(tmp_path, "--ext", "tar", "--dest", tmp_path)
    assert code == 0
    assert "left out 1 without the labels that others have" in out
    assert (tmp_path / "train.ltr").read_text() == "A B |\n"
    assert manifest_program(tmp_path / "train.tsv", "--check")[:2] == (0, "")


@pytest.mark.parametrize("order", [[], ["--shuffle"]])
def test_labels_of_another_length_are_refused(tmp_path, order):
    manifest = write_clips(tmp_path / "files", 3)
    lines = (tmp_path / "files/train.ltr").read_text().splitlines(keepends=True)
    (tmp_path / "files/train.ltr").write_text("".join(lines[:-1]))
    code, _, err = manifest_program(manifest, "--shards", tmp_path / "shards", *order)
    assert (code, "train.ltr: 2 lines, but the manifest lists 3 clips" in err) == (2, True)


# ------------------------------------------------------------------------------------------------------------ faults


def test_check_finds_every_kind_of_damage(packed, tmp_path):
    for path in (packed / "shards").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(bytes(packed / "shards"), bytes(tmp_path)))
    assert manifest_program(tmp_path / "train.tsv", "--check")[:2] == (0, "")
    place = parse_place(read_manifest(tmp_path / "train.tsv").name(3))
    shard = bytearray((tmp_path / place.shard).read_bytes())
    shard[place.first + place.second // 2] ^= 1
    (tmp_path / place.shard).write_bytes(shard)
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    lines[1] = lines[1].rpartition("\t")[0] + "\t123"
    (tmp_path / "train.tsv").write_text("\n".join(lines[:-1]) + "\n")
    code, out, _ = manifest_program(tmp_path / "train.tsv", "--check")
    assert code == 1
    assert "train.tsv:5: " in out
    assert "CRC-32" in out
    assert "its manifest says 123" in out
    assert "in the manifest" in out  # the list of shards counts one more
    assert "lines of ltr" in out


def test_a_shard_that_has_changed_is_refused(packed, tmp_path):
    for path in (packed / "shards").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(bytes(packed / "shards"), bytes(tmp_path)))
    with open(tmp_path / "train-000001.tar", "ab") as file:
        file.write(bytes(512))
    clips = AudioDataset(read_manifest(tmp_path / "train.tsv"), pad=True)
    with pytest.raises(ShardError, match=r"train-000001.tar: has changed since its manifest was written"):
        clips.batch(np.arange(len(clips)), 0)
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000001.tar: the shard cannot be read: No such file"):
        AudioDataset(read_manifest(tmp_path / "train.tsv"), pad=True).batch(np.arange(len(clips)), 0)


def test_bad_members_are_replaced_alike_and_counted(packed, tmp_path):
    for path in (packed / "shards").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(bytes(packed / "shards"), bytes(tmp_path)))
    manifest = read_manifest(tmp_path / "train.tsv")
    for row in (4, 9):
        place = manifest.source_of(row).place
        shard = bytearray((tmp_path / place.shard).read_bytes())
        shard[place.first + 200] ^= 1
        (tmp_path / place.shard).write_bytes(shard)
    batches = [np.arange(first, first + 4) for first in range(0, 24, 4)]

    def run(size):
        ranks = [EpochIterator(AudioDataset(manifest, pad=True), batches, seed=1, rank=rank, world_size=size,
                               num_workers=size - 1) for rank in range(size)]  # fmt: skip
        found = []
        for groups in zip(*(rank.updates(1) for rank in ranks), strict=True):
            found += [batch.source.numpy() for group in groups for batch, counts in group if counts]
        bad = {index for rank in ranks for index in rank.dataset.bad}
        for rank in ranks:
            rank.close()
        return found, bad

    (one, bad), (two, bad_of_two) = run(1), run(2)
    assert bad == bad_of_two == {4, 9}
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    for row in (4, 9):
        fit = AudioDataset(manifest, pad=True).batch([row], 0)
        assert fit.indices.tolist()[0] not in (4, 9)
    strict = AudioDataset(manifest, pad=True, max_bad=0)
    with pytest.raises(DataError, match=r"more than 0% \(--max-bad\); .*CRC-32.*; all: .*train004.wav"):
        strict.batch(np.arange(8), 1)


def test_names_of_places():
    for name in ("a/x.tar:1:2:0000beef/k.wav", "x.zip:3:44", "s/y.parquet:0:7:12345678/k:1.flac", "x.tar:1:2/k"):
        assert parse_place(name).name() == name
    assert parse_place("a.wav:1:2") is None
    assert parse_place("x.tar") is None
    assert Place("s/a.zip", 12, 5).title == "s/a-12"
    assert shown("https://u:p@host/a.tar?sig=secret") == "https://host/a.tar"
