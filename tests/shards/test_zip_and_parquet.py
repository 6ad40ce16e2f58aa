"""Clips in zip files, as the original's manifests name them, and in the parquet files of the Hugging Face hub."""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile

import numpy as np
import pytest
from clip_files import manifest_program, write_clips

from w2v.data.dataset import AudioDataset
from w2v.data.manifest import read_manifest
from w2v.errors import DataError, MissingPackageError
from w2v.shards.parquet_file import RowGroups
from w2v.shards.store import LocalFile
from w2v_cli import featurize
from w2v_cli.shard_listing import split_of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    manifest = read_manifest(write_clips(folder, 12))
    clips = [(manifest.name(row), open(manifest.path(row), "rb").read()) for row in range(12)]  # noqa: SIM115
    return clips, AudioDataset(manifest, pad=True).batch(np.arange(12), 0).source.numpy()


def same(manifest, expected, rows=range(12)):
    found = AudioDataset(read_manifest(manifest), pad=True).batch(np.arange(len(rows)), 0).source.numpy()
    assert np.array_equal(found, expected[list(rows)][:, : found.shape[1]])


# ----------------------------------------------------------------------------------------------------------------- zip


def zipped(clips, *, method=zipfile.ZIP_STORED):
    """A zip with every kind of local header: names that are not ASCII, extra fields of Unix, sizes of 64 bits."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for number, (name, content) in enumerate(clips):
            info = zipfile.ZipInfo(f"sprüche/{name}" if number % 2 else name)
            info.compress_type = method
            if number % 3 == 1:
                info.extra = struct.pack("<HHBBIBI", 0x7875, 11, 1, 4, 1000, 4, 1000)
            with file.open(info, "w", force_zip64=number % 3 == 2) as member:
                member.write(content)
    return buffer.getvalue()


def test_zips_are_listed_at_the_true_place_of_their_members(files, tmp_path):
    clips, expected = files
    (tmp_path / "train.zip").write_bytes(zipped(clips))
    code, _, err = manifest_program(tmp_path, "--ext", "zip", "--dest", tmp_path)
    assert code == 0, err
    same(tmp_path / "train.tsv", expected)
    content = (tmp_path / "train.zip").read_bytes()
    manifest = read_manifest(tmp_path / "train.tsv")
    for row, (name, audio) in enumerate(clips):
        place = manifest.source_of(row).place
        assert content[place.first : place.first + place.second] == audio
        assert place.key.endswith(name)
    assert manifest_program(tmp_path / "train.tsv", "--check")[0] == 0


def test_the_lines_of_the_original(files, tmp_path):
    clips, expected = files
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.zip").write_bytes(zipped(clips))
    assert manifest_program(tmp_path, "--ext", "zip", "--dest", tmp_path, "--valid-percent", "0")[0] == 0
    ours = read_manifest(tmp_path / "train.tsv")
    places = [ours.source_of(row).place for row in range(12)]
    lines = [f"sub/a.zip:{place.first}:{place.second}\t{size}" for place, size in zip(places, ours.sizes)]
    (tmp_path / "x.tsv").write_text("\n".join([str(tmp_path), *lines]) + "\n")
    same(tmp_path / "x.tsv", expected)
    assert read_manifest(tmp_path / "x.tsv").title(0) == f"sub/a-{places[0].first}"


def test_what_no_place_can_name_is_refused(files, tmp_path):
    clips, _ = files
    (tmp_path / "train.zip").write_bytes(zipped(clips[:2], method=zipfile.ZIP_DEFLATED))
    code, _, err = manifest_program(tmp_path, "--ext", "zip", "--dest", tmp_path)
    assert code == 2
    assert "is deflated, not stored; zip it with `zip -0`" in err
    (tmp_path / "train.zip").write_bytes(zipped(clips))
    (tmp_path / "x.tsv").write_text(f"{tmp_path}\ntrain.zip:17:5000\t2000\n")
    data = AudioDataset(read_manifest(tmp_path / "x.tsv"), pad=True, replace_unreadable=False)
    with pytest.raises(DataError, match=r"train.zip:17:5000: no audio begins there .* stored, not deflated"):
        data.batch([0], 0)
    (tmp_path / "train.zip").write_bytes(b"PK" + bytes(100))
    assert "not readable as a zip file" in manifest_program(tmp_path, "--ext", "zip", "--dest", tmp_path)[2]


# ------------------------------------------------------------------------------------------------------------- parquet


def write_table(path, clips, *, order=("bytes", "path"), texts=None, paths=True, rows_of_group=5, kind="struct"):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    if kind == "struct":
        field = {"bytes": pa.binary(), "path": pa.string()}
        values = [{"bytes": content, "path": name if paths else None} for name, content in clips]
        column = pa.array(values, pa.struct([(name, field[name]) for name in order]))
    else:
        column = pa.array([content for _, content in clips], pa.binary())
    columns = {"id": pa.array(range(len(clips))), "audio": column}
    if texts is not None:
        columns["sentence"] = pa.array(texts)
    features = {"info": {"features": {"audio": {"sampling_rate": 16000, "_type": "Audio"}}}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_of_group)


@pytest.mark.parametrize("form", [{}, {"order": ("path", "bytes")}, {"paths": False}, {"kind": "binary"}])
def test_every_form_of_the_column_is_read(files, tmp_path, form):
    clips, expected = files
    texts = [f"text {number}" for number in range(12)]
    write_table(tmp_path / "data/train-00000-of-00002.parquet", clips[:7], texts=texts[:7], **form)
    write_table(tmp_path / "data/train-00001-of-00002.parquet", clips[7:10], texts=texts[7:10], **form)
    write_table(tmp_path / "data/validation-00000-of-00001.parquet", clips[10:], texts=texts[10:], **form)
    code, _, err = manifest_program(tmp_path, "--ext", "parquet", "--dest", tmp_path)
    assert code == 0, err
    same(tmp_path / "train.tsv", expected, range(10))
    same(tmp_path / "valid.tsv", expected, range(10, 12))
    lines = (tmp_path / "train.transcripts.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines] == texts[:10]
    assert manifest_program(tmp_path / "train.tsv", "--check")[0] == 0
    assert not {"datasets", "torchcodec"} & set(sys.modules)


@pytest.mark.parametrize("paths", [True, False])
def test_clips_that_are_called_alike_get_names_of_their_own(files, tmp_path, paths):
    clips, expected = files
    same_name = [("far/audio.wav", content) for _, content in clips]
    folder = tmp_path / "parquet"  # a folder may be called so
    for number, first in enumerate((0, 6)):
        write_table(folder / f"train-{number}.parquet", same_name[first : first + 6], texts=["a b"] * 6, paths=paths)
    code, _, err = manifest_program(folder, "--ext", "parquet", "--dest", tmp_path)
    assert code == 0, err
    same(tmp_path / "train.tsv", expected)
    manifest = read_manifest(tmp_path / "train.tsv")
    titles = [manifest.title(row) for row in range(12)]
    assert len({title.removesuffix(".wav") for title in titles}) == 12
    if paths:
        assert titles[:3] == ["audio.wav", "audio-2.wav", "audio-3.wav"]
    lines = (tmp_path / "train.transcripts.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == titles
    manifest.check_titles()


def test_two_clips_of_one_name_are_refused_where_results_are_found_by_it(tmp_path):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n" + "".join(f"{s}.tar:0:9/a/x.wav\t1\n" for s in "abba"))
    with pytest.raises(DataError, match=r"train.tsv:2 and .*train.tsv:3: two clips are called 'a/x.wav'"):
        read_manifest(tmp_path / "train.tsv").check_titles()
    (tmp_path / "twice.tsv").write_text(f"{tmp_path}\n" + "a.tar:0:9/a/x.wav\t1\n" * 2)
    read_manifest(tmp_path / "twice.tsv").check_titles()  # one clip
    with pytest.raises(DataError, match=r"a.tar:0:9/a/x.wav and b.tar:0:9/a/x.wav would both become .*a/x.npy"):
        featurize.check_names(read_manifest(tmp_path / "train.tsv"), tmp_path, ".npy")


def test_rows_without_bytes_are_rejected(files, tmp_path):
    clips, expected = files
    write_table(tmp_path / "train.parquet", [*clips[:3], ("far/away.wav", None)])
    assert manifest_program(tmp_path, "--ext", "parquet", "--dest", tmp_path)[0] == 0
    same(tmp_path / "train.tsv", expected, range(3))
    assert "the row holds no audio bytes" in (tmp_path / "rejects.tsv").read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/train.parquet").write_bytes(b"PAR1 and no more")
    assert "not readable as a parquet file" in manifest_program(tmp_path / "other", "--ext", "parquet")[2]


def test_no_more_than_two_row_groups_are_held(files, tmp_path):
    clips, _ = files
    write_table(tmp_path / "x.parquet", clips, rows_of_group=2)
    groups = RowGroups(lambda name: LocalFile(str(tmp_path / name)), str)
    for number in (0, 3, 1, 5, 5, 4, 0):
        assert groups.read("x.parquet", number, 1) == clips[2 * number + 1][1]
        assert len(groups._groups) <= 2
    with pytest.raises(DataError, match="row 7 of row group 0 holds no audio"):
        groups.read("x.parquet", 0, 7)
    with pytest.raises(DataError, match="has 6 row groups, and no group 9"):
        groups.read("x.parquet", 9, 0)


def test_pyarrow_is_named_where_it_is_missing(files, tmp_path, monkeypatch):
    clips, _ = files
    write_table(tmp_path / "x.parquet", clips[:1])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    groups = RowGroups(lambda name: LocalFile(str(tmp_path / name)), str)
    with pytest.raises(MissingPackageError, match=r'reading parquet files needs .* pip install "w2v\[shards\]"'):
        groups.read("x.parquet", 0, 0)


@pytest.mark.parametrize(
    ("name", "split"),
    [("data/train-00000-of-00012.parquet", "train"), ("validation/0.parquet", "valid"), ("dev-1.tar", "valid"),
     ("x_test.zip", "test"), ("trainer.tar", None), ("eval.parquet", "test")],
)  # fmt: skip
def test_splits_by_name(name, split):
    assert split_of(name) == split
