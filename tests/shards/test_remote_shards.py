"""Shards on servers: the same batches as from a disk, whatever the server does; and one line when it is gone."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from clip_files import manifest_program, write_clips
from fault_server import fault_server

from w2v.data.dataset import AudioDataset
from w2v.data.iterator import EpochIterator
from w2v.data.manifest import read_manifest
from w2v.errors import ConfigError, DataError, MissingPackageError, ShardError
from w2v.shards import remote
from w2v.shards.prefetch import Prefetcher, coalesced
from w2v.shards.remote import RemoteFile


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    manifest = write_clips(folder / "files", 24)
    assert manifest_program(manifest, "--shards", folder / "shards", "--shard-size", "60K")[0] == 0
    return folder


@pytest.fixture
def server(packed):
    with fault_server(packed / "shards") as served:
        yield served


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(remote, "sleep", lambda seconds: waits.append(seconds))
    return waits


def at(packed, url, tmp_path, *, with_list=True):
    """The manifest of the shards, with an address for its root."""
    lines = (packed / "shards/train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join([url, *lines[1:]]) + "\n")
    if with_list:
        (tmp_path / "train.shards.tsv").write_bytes((packed / "shards/train.shards.tsv").read_bytes())
    return read_manifest(tmp_path / "train.tsv")


def clips_of(manifest, **options):
    return AudioDataset(manifest, pad=True, **options)


def everything(dataset):
    return dataset.batch(np.arange(len(dataset)), 3).source.numpy()


@pytest.fixture(scope="module")
def local(packed):
    return everything(clips_of(read_manifest(packed / "files/train.tsv")))


# ----------------------------------------------------------------------------------------------------- what servers do


@pytest.mark.parametrize("fault", [503, 429, "reset", "short", "silent"])
def test_a_failing_server_is_asked_again_from_the_byte_reached(packed, server, fault, monkeypatch, no_waiting):
    monkeypatch.setattr(remote, "SILENCE", 1.0)  # more than a busy machine takes to answer
    path = packed / "shards/train-000000.tar"
    server.faults.extend([fault, fault, fault])
    file = RemoteFile(f"{server.url}/{path.name}?sig=secret")
    assert file.read(100, 40_000) == path.read_bytes()[100:40_000]
    assert len(no_waiting) == 3
    asked = [int(text.removeprefix("bytes=").partition("-")[0]) for _, text in server.requests]
    if isinstance(fault, int):
        assert asked == [100] * 4
        assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(no_waiting))
    else:
        assert asked[0] == 100
        assert asked == sorted(set(asked))
        assert asked[1] > 10_000  # half of it had come


@pytest.mark.parametrize(("fault", "tries", "reason"), [(503, 8, "HTTP 503"), (404, 1, "there is no such file"),
                                                        (403, 1, "access denied")])  # fmt: skip
def test_a_server_that_stays_gone_is_one_line(server, fault, tries, reason, no_waiting):
    server.faults.extend([fault] * 20)
    with pytest.raises(ShardError) as caught:
        RemoteFile(f"{server.url}/train-000000.tar?sig=secret").read(0, 10)
    assert caught.value.exit_code == 3
    assert len(server.requests) == tries
    assert f"{server.url}/train-000000.tar" in str(caught.value)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(no_waiting) == tries - 1
    assert all(wait <= 30 for wait in no_waiting)


def test_nobody_listens(no_waiting):
    with pytest.raises(ShardError, match=r"^http://127.0.0.1:9: gave up after 8 tries .*Connection refused"):
        RemoteFile("http://127.0.0.1:9/x.tar").read(0, 10)
    assert len(no_waiting) == 7


def test_a_server_without_ranges_gives_whole_shards_once(packed, server, tmp_path, local):
    server.ranges = False
    server.faults.extend(["short", 503])
    assert np.array_equal(everything(clips_of(at(packed, server.url, tmp_path))), local)
    whole = [path for path, _ in server.requests]
    shards = sorted(set(whole))
    assert len(whole) <= 2 * len(shards) + 2  # once to see, once to fetch


def test_batches_are_those_of_the_files_in_every_worker(packed, server, tmp_path, local):
    server.faults.extend([503, "reset", "short"])
    clips = clips_of(at(packed, f"{server.url}?sig=secret", tmp_path))
    assert np.array_equal(everything(clips), local)
    batches = [np.arange(n, min(n + 3, 24)) for n in range(0, 24, 3)]
    files = clips_of(read_manifest(packed / "files/train.tsv"))
    runs = []
    for data, workers, method in ((files, 0, None), (clips, 0, None), (clips, 2, "fork"), (clips, 1, "forkserver"),
                                  (clips, 1, "spawn")):  # fmt: skip
        threads = threading.active_count()
        data = pickle.loads(pickle.dumps(data))
        epochs = EpochIterator(data, batches, seed=5, num_workers=workers, start_method=method)
        runs.append([batch.source.numpy() for group in epochs.updates(1) for batch, _ in group])
        epochs.close()
        if workers:
            assert getattr(data.manifest.store, "_opened", None) is None  # nothing was opened before the workers
            assert threading.active_count() <= threads + 2  # torch's own
    for run in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_other_shards_are_refused(packed, server, tmp_path):
    manifest = at(packed, server.url, tmp_path)
    text = (tmp_path / "train.shards.tsv").read_text().splitlines()
    tagged = [f'{line}\t"other"' for line in text]
    (tmp_path / "train.shards.tsv").write_text("\n".join(tagged) + "\n")
    with pytest.raises(ShardError, match=r'has changed since its manifest was written \(was "other", is "\d+"\)'):
        everything(clips_of(read_manifest(tmp_path / "train.tsv")))
    del manifest


def test_the_shards_of_a_server_are_listed(packed, server, tmp_path, local):
    count = len(list((packed / "shards").glob("train-*.tar")))
    braces = f"{server.url}/train-{{000000..{count - 1:06d}}}.tar"
    code, _, err = manifest_program(braces, "--ext", "tar", "--dest", tmp_path)
    assert code == 0, err
    assert np.array_equal(everything(clips_of(read_manifest(tmp_path / "train.tsv"))), local)
    assert '"' in (tmp_path / "train.shards.tsv").read_text()  # tags
    assert manifest_program(tmp_path / "train.tsv", "--check")[0] == 0
    code, _, err = manifest_program(server.url, "--ext", "tar", "--dest", tmp_path)
    assert code == 3
    assert "name the shards" in err
    code, _, err = manifest_program("pipe:cat x.tar", "--ext", "tar", "--dest", tmp_path)
    assert (code, "commands and joined lists are not read" in err) == (2, True)


@pytest.mark.parametrize("far", [False, True], ids=["disk", "server"])
def test_a_length_that_no_shard_has_takes_no_memory(packed, server, tmp_path, far):
    root = server.url if far else str(packed / "shards")
    (tmp_path / "train.tsv").write_text(f"{root}\ntrain-000000.tar:512:{10**15 - 1}/x.wav\t100\n")
    with pytest.raises(DataError, match=r"the shard ends \d+ bytes before the end of the clip"):
        read_manifest(tmp_path / "train.tsv").stretch(0)[0].load()


def test_a_shard_that_is_replaced_while_it_is_read_is_refused(packed, tmp_path):
    for path in (packed / "shards").glob("train*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with fault_server(tmp_path) as served:
        (tmp_path / "m").mkdir()
        code, _, err = manifest_program(f"{served.url}/train-{{000000..000001}}.tar", "--dest", tmp_path / "m")
        assert code == 0, err
        clips = clips_of(read_manifest(tmp_path / "m/train.tsv"))
        clips.batch(np.arange(1), 1)
        (tmp_path / "train-000000.tar").write_bytes((tmp_path / "train-000000.tar").read_bytes())  # another tag
        with pytest.raises(ShardError, match="has changed since its manifest was written"):
            clips.batch(np.arange(1, 2), 1)


def test_shards_of_a_file_system_of_fsspec(packed, tmp_path, local, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in (packed / "shards").glob("train-*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    assert np.array_equal(everything(clips_of(at(packed, "memory://bucket", tmp_path))), local)
    code, _, err = manifest_program("memory://bucket", "--ext", "tar", "--dest", tmp_path / "m")
    assert code == 0, err
    assert np.array_equal(everything(clips_of(read_manifest(tmp_path / "m/train.tsv"))), local)
    fails = iter([OSError("busy"), TimeoutError(), RuntimeError("odd")])

    class Failing(type(memory)):
        def cat_file(self, *args, **kwargs):
            for failure in fails:
                raise failure
            return memory.cat_file(*args, **kwargs)

    monkeypatch.setattr(remote, "_file_system", lambda url: Failing())
    assert np.array_equal(everything(clips_of(at(packed, "memory://bucket", tmp_path))), local)


def test_a_missing_package_is_named(monkeypatch):
    import sys

    remote._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match=r's3:// needs the package s3fs; .* pip install "w2v\[shards\]"'):
        RemoteFile("s3://bucket/x.tar").read(0, 10)


def test_files_without_shards_on_a_server_are_refused(tmp_path):
    (tmp_path / "x.tsv").write_text("s3://bucket/a\nclip.wav\t100\n")
    with pytest.raises(DataError, match=r"x.tsv:1: s3://bucket/a is an address"):
        read_manifest(tmp_path / "x.tsv")
    (tmp_path / "x.tsv").write_text("/root\ns3://bucket/x.tar:1:2/k.wav\t100\n")
    with pytest.raises(DataError, match="must stay inside the root"):
        read_manifest(tmp_path / "x.tsv")


# ------------------------------------------------------------------------------------------------------------ prefetch


def test_neighbours_come_in_one_range():
    keys = [("b", 0, 10), ("a", 100, 200), ("a", 0, 90), ("a", 10_000, 10_100), ("a", 205, 300)]
    found = [(r.shard, r.start, r.end, len(r.members)) for r in coalesced(keys, 1000, gap=20)]
    assert found == [("a", 0, 300, 3), ("a", 10_000, 10_100, 1), ("b", 0, 10, 1)]
    assert [r.end - r.start for r in coalesced([("a", n * 10, n * 10 + 10) for n in range(10)], 30)] == [30, 30, 30, 10]


def test_what_is_held_stays_within_the_budget():
    held, most, lock, content = set(), [0], threading.Lock(), bytes(range(256)) * 4000
    calls = []

    def fetch(shard, start, end):
        with lock:
            calls.append((start, end))
        return content[start:end]

    budget = 64_000
    prefetcher = Prefetcher(fetch, budget)
    keys = [("s", n * 4000, n * 4000 + 4000) for n in range(200)]
    for first in range(0, 200, 40):
        prefetcher.expect(keys[first : first + 40])
        for key in keys[first : first + 40]:
            most[0] = max(most[0], prefetcher._num_held)
            assert prefetcher.take(*key) == content[key[1] : key[2]]
    assert most[0] <= budget
    assert not held
    assert prefetcher._num_held == 0
    assert len(calls) == 50  # ranges of four clips, a quarter of the budget each
    prefetcher.expect(keys[:40])  # an epoch that ends in its middle
    prefetcher.expect(keys[100:140])
    for key in keys[100:140]:
        assert prefetcher.take(*key) == content[key[1] : key[2]]
        assert prefetcher._num_held <= budget + 16_000


@pytest.mark.parametrize("options", [{}, {"sample_rate": 8000, "resample": True}], ids=["ordinary", "resampled"])
def test_clips_of_an_epoch_cross_the_line_once(packed, server, tmp_path, options):
    clips = clips_of(at(packed, server.url, tmp_path), **options)
    epochs = EpochIterator(clips, [np.arange(n, n + 2) for n in range(0, 24, 2)], seed=1, num_workers=0)
    for _ in epochs.updates(1):
        pass
    size = sum(path.stat().st_size for path in (packed / "shards").glob("train-*.tar"))
    num_shards = len(list((packed / "shards").glob("train-*.tar")))
    assert server.num_bytes <= 1.02 * size
    assert len(server.requests) <= 2 * num_shards
    assert {text for _, text in server.requests}.isdisjoint({"bytes=0-0", None})  # answers tell size and tag


def test_a_wrong_number_of_shards_is_refused():
    from w2v_cli.shard_listing import find_shards

    with pytest.raises(ConfigError, match="must count upwards"):
        find_shards("https://h/x-{9..1}.tar", None)
    assert find_shards("https://h/x-{08..11}.tar", None).names == ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]
