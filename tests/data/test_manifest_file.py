"""Manifests: what the original's one-line-at-a-time reader would read, and one clear line for everything else."""

from __future__ import annotations

import gzip
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2v.data import text_blocks
from w2v.data.manifest import is_listable, join_manifests, make_manifest, read_manifest, write_manifest
from w2v.errors import DataError
from w2v.shards.member import is_url
from w2v.shards.store import Identity

NAMES = [
    "a.flac", "with space.wav", " leading", "quote's.wav", 'double"quote.wav', "日本語/音声.wav", "emoji_🎤.wav",
    "a..b.wav", "..hidden", "dots../x", "x/...", "-dash.wav", "percent%20.wav", "back\\slash.wav", "\u2028line.wav",
    "://", "a b://c.wav",
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
    lambda text: not text.startswith("/") and ".." not in text.split("/") and not is_url(text)
)


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
        ("/r\na.wav\t1\n".encode("utf-16"), "x.tsv:1: the manifest must be text, got UTF-16; iconv"),
        *(
            (
                f"/r\n{name}\t1\n".encode(),
                f"x.tsv:2: path:offset:frames must be whole numbers of samples, 0 or more, got '{name}",
            )
            for name in (
                "a.wav:0",
                "a.WAV:0:",
                "a.wav:0-99",
                "b/a.flac:00:01:02",
                "a.wav#t=0,2",
                "a.mp3@5:9",
                "a.wav:0,5",
            )
        ),
    ],
)
def test_broken_lines_are_named(tmp_path, content, message):
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_manifest(tmp_path / "x.tsv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_look_like_stretches_and_are_none(tmp_path):
    names = [
        "a.wav#1.wav",
        "12:30:05.wav",
        "a.wav:0:16",
        "x.tar:512:99:a.wav:0:16",
        "at@home.wav",
        "a.wave:1",
        "c:d/e.flac",
    ]
    (tmp_path / "x.tsv").write_text("/r\n" + "".join(f"{name}\t1\n" for name in names))
    manifest = read_manifest(tmp_path / "x.tsv")
    assert [manifest.name(row) for row in range(len(manifest))] == names


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


def test_lines_of_joined_manifests_name_their_file(tmp_path):
    for name, root, count in (("a", "r", 2), ("b", "r", 1), ("c", "q", 2)):
        (tmp_path / root).mkdir(exist_ok=True)
        write_manifest(tmp_path / f"{name}.tsv", str(tmp_path / root), [f"{i}.wav" for i in range(count)], [9] * count)
    parts = [read_manifest(tmp_path / f"{name}.tsv") for name in "abc"]
    lines = [part.line(row) for part in parts for row in range(len(part))]
    assert lines == [f"{tmp_path}/{name}" for name in ("a.tsv:2", "a.tsv:3", "b.tsv:2", "c.tsv:2", "c.tsv:3")]
    for joint in (join_manifests(parts), join_manifests([join_manifests(parts[:2]), parts[2]])):
        assert [joint.line(row) for row in range(len(joint))] == lines
    joint = join_manifests(parts[:2])  # of one root
    assert [joint.line(row) for row in range(3)] == lines[:3]


def test_what_a_server_wants_behind_an_address_goes_for_one_root(tmp_path):
    for name, root in (("a", "https://h/x?key=secret"), ("b", "https://h/x?key=secret"), ("c", "https://h/y")):
        write_manifest(tmp_path / f"{name}.tsv", root, ["s.tar:1:2/k.wav"], [9])
    a, b, c = (read_manifest(tmp_path / f"{name}.tsv") for name in "abc")
    assert join_manifests([a, b]).root == "https://h/x?key=secret"
    with pytest.raises(DataError, match=r"a.tsv:1: https://h/x has a part `\?`.* \(https://h/y\)$") as error:
        join_manifests([a, c])
    assert "secret" not in str(error.value)


def test_a_list_of_shards_goes_with_the_manifest_that_it_belongs_to(tmp_path):
    path, names = tmp_path / "x.tsv", ["s.tar:1:2/k.wav", "t.tar:1:2/k.wav", "s.tar:9:2/l.wav"]
    write_manifest(path, "/r", names, [1, 1, 1], {"s.tar": Identity(80, "tag"), "u.tar": Identity(70)})
    assert read_manifest(path).identities == {"s.tar": Identity(80, "tag", 2)}
    write_manifest(path, "/r", ["a.wav"], [1])
    assert [found.name for found in tmp_path.iterdir()] == ["x.tsv"]


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
    (tmp_path / "x.tsv").write_bytes(gzip.compress(b"/r\na.wav\t1\n", mtime=0))
    assert read_manifest(tmp_path / "x.tsv").path(0) == "/r/a.wav"
