"""Manifests: what the original's one-line-at-a-time reader would read, and one clear line for everything else."""

from __future__ import annotations

import gzip
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data import text_blocks
from w2v.data.manifest import is_listable, make_manifest, read_manifest, write_manifest
from w2v.errors import DataError

NAMES = [
    "a.flac", "with space.wav", " leading", "quote's.wav", 'double"quote.wav', "日本語/音声.wav", "emoji_🎤.wav",
    "a..b.wav", "..hidden", "dots../x", "x/...", "-dash.wav", "percent%20.wav", "back\\slash.wav", "\u2028line.wav",
]  # fmt: skip


def test_round_trip_of_awkward_names(tmp_path):
    names = [*NAMES, os.fsdecode(b"latin\xe9.wav")]
    sizes = list(range(len(names)))
    write_manifest(tmp_path / "x.tsv", str(tmp_path), names, sizes)
    manifest = read_manifest(tmp_path / "x.tsv")
    assert [manifest.name(i) for i in range(len(manifest))] == names
    assert manifest.sizes.tolist() == sizes
    assert manifest.path(1) == str(tmp_path / "with space.wav")
    assert manifest.names.dtype == np.uint8
    again = pickle.loads(pickle.dumps(manifest))
    assert again.name(5) == names[5]


name = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: not text.startswith("/") and ".." not in text.split("/")
)


@settings(deadline=None)
@given(st.lists(st.tuples(name, st.integers(0, 10**17)), min_size=1, max_size=20))
def test_equals_a_reader_of_one_line_at_a_time(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("m") / "x.tsv"
    write_manifest(path, "/r", [n for n, _ in rows], [s for _, s in rows])
    expected = [line.split("\t") for line in path.read_bytes().decode().split("\n")[1:-1]]
    manifest = read_manifest(path)
    assert [[manifest.name(i), str(manifest.sizes[i])] for i in range(len(manifest))] == expected
    memory = make_manifest("/r", [n for n, _ in rows], [s for _, s in rows])
    assert np.array_equal(memory.names, manifest.names)
    assert np.array_equal(memory.offsets, manifest.offsets)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n \n"])
def test_line_endings(tmp_path, ending):
    path = tmp_path / "x.tsv"
    path.write_bytes(("/r\r\na b.wav\t12\r\nc.wav\t7" + ending).encode())
    manifest = read_manifest(path)
    assert (manifest.root, manifest.name(0), manifest.name(1)) == ("/r", "a b.wav", "c.wav")
    assert manifest.sizes.tolist() == [12, 7]


def test_a_byte_order_mark_is_no_part_of_the_root(tmp_path):
    (tmp_path / "x.tsv").write_bytes("\ufeff/r\na.wav\t12\n".encode())
    assert read_manifest(tmp_path / "x.tsv").root == "/r"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.tsv:1: the first line must name the root folder"),
        (b"\n", "x.tsv:1: the first line"),
        (b"a.wav\t10\nb.wav\t-10\n", "x.tsv:1: the first line"),
        (b"/r\n", "lists no clips"),
        (b"/r\na.wav\t1\nb.wav 2\n", "x.tsv:3: must be path TAB samples, with one tab, got 0 tabs in 'b.wav 2'"),
        (b"/r\na.wav\t1\t2\n", "x.tsv:2: must be path TAB samples, with one tab, got 2 tabs"),
        (b"/r\na.wav\t1\n\nb.wav\t2\n", "x.tsv:3: must be path TAB samples"),
        (b"/r\na.wav\t-1\n", "x.tsv:2: the number of samples must be a whole number >= 0, got '-1'"),
        (b"/r\na.wav\t1.5\n", "x.tsv:2: the number of samples"),
        (b"/r\na.wav\t\nb\t2", "x.tsv:2: the number of samples"),
        (b"/r\na.wav\t1\nb\t12345678901234567890\n", "x.tsv:3: the number of samples"),
        (b"/r\n\t1\n", "x.tsv:2: has no path"),
        (b"/r\na\t1\n/etc\t1\n", "x.tsv:3: must stay inside the root folder (or give --allow-outside-root), got '/"),
        (b"/r\na\t1\n../b\t1\n", "x.tsv:3: must stay inside the root folder (or give --allow-outside-root), got '../"),
        (b"/r\na/../../b\t1\n", "x.tsv:2: must stay inside the root folder"),
        (b"/r\na/..\t1\n", "x.tsv:2: must stay inside the root folder"),
        (b"/r\na\t1\n../b\t1\n/c\t1\n", "x.tsv:3: must stay inside"),
        (b"/r\na\t1\n/c\t1\n../b\t1\n", "x.tsv:3: must stay inside"),
        (b"/r\na\t1\nb\0c\t1\n", "x.tsv:3: holds a zero byte"),
        (b"/r\0\na\t1\n", "x.tsv:1: the first line must name the root folder"),
    ],
)
def test_broken_lines_are_named(tmp_path, content, message):
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_manifest(tmp_path / "x.tsv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the manifest .*none.tsv: No such file"):
        read_manifest(tmp_path / "none.tsv")
    write_manifest(tmp_path / "x.tsv", "/no/such/root", ["a"], [1])
    with pytest.raises(DataError, match=r"x.tsv:1: the root folder '/no/such/root' does not exist"):
        read_manifest(tmp_path / "x.tsv").check_root()
    with pytest.raises(DataError, match="cannot write"):
        write_manifest(tmp_path / "no" / "x.tsv", "/r", ["a"], [1])


def test_names_that_a_line_cannot_hold(tmp_path):
    assert not is_listable("a\tb")
    assert not is_listable("a\nb")
    with pytest.raises(DataError, match="cannot hold the name"):
        write_manifest(tmp_path / "x.tsv", "/r", ["a\tb"], [1])
    assert list(tmp_path.iterdir()) == []


def test_names_outside_the_root_can_be_allowed(tmp_path):
    names = ["/etc/a.wav", "../b.wav", "c/../../d.wav", "e/..", "f.wav"]
    write_manifest(tmp_path / "x.tsv", "/r", names, range(5))
    with pytest.raises(DataError, match=r"x.tsv:2: must stay inside"):
        read_manifest(tmp_path / "x.tsv")
    manifest = read_manifest(tmp_path / "x.tsv", allow_outside_root=True)
    assert [manifest.path(i) for i in range(5)] == ["/etc/a.wav", *(f"/r/{name}" for name in names[1:])]
    (tmp_path / "x.tsv").write_bytes(b"/r\n../a\0b\t1\n")
    with pytest.raises(DataError, match="zero byte"):
        read_manifest(tmp_path / "x.tsv", allow_outside_root=True)


def test_links_are_followed(tmp_path):
    """Who can put a link into the root could put the file there."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "x.wav").symlink_to(tmp_path / "elsewhere.wav")
    write_manifest(tmp_path / "x.tsv", str(tmp_path / "root"), ["x.wav"], [1])
    assert os.path.realpath(read_manifest(tmp_path / "x.tsv").path(0)) == str(tmp_path / "elsewhere.wav")


@pytest.mark.parametrize("size", [1, 7, 30, 1 << 22])
def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch, size):
    """Faults are at the same line, and blank lines in the middle are faults, wherever a block ends."""
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", size)
    path = tmp_path / "x.tsv"
    path.write_bytes(b"/r\r\na b.wav\t12\r\nc.wav\t7 \nd\t0\r\n\n  \n")
    manifest = read_manifest(path)
    assert [(manifest.name(i), int(manifest.sizes[i])) for i in range(3)] == [("a b.wav", 12), ("c.wav", 7), ("d", 0)]
    rows = [b"%d.wav\t%d" % (i, i) for i in range(20)]
    for place, wrong in (
        (0, b"\t1"),
        (7, b""),
        (12, b"../x\t1"),
        (19, b"x\t"),
        (11, b"/\t1"),
        (3, b"a\0\t1"),
        (5, b"a\tb"),
    ):
        path.write_bytes(b"/r\n" + b"\n".join([*rows[:place], wrong, *rows[place:]]) + b"\n\n")
        with pytest.raises(DataError, match=rf"x.tsv:{place + 2}: "):
            read_manifest(path)


def test_gzipped(tmp_path):
    (tmp_path / "x.tsv").write_bytes(gzip.compress(b"/r\na.wav\t1\n"))
    assert read_manifest(tmp_path / "x.tsv").path(0) == "/r/a.wav"
