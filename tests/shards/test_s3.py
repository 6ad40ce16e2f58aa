"""Shards on a real S3 server in this process; skipped where its packages are not installed."""

from __future__ import annotations

import contextlib
import socket
import threading

import numpy as np
import pytest
from clip_files import manifest_program, write_clips

from w2v.data.dataset import AudioDataset
from w2v.data.manifest import read_manifest
from w2v.errors import ShardError
from w2v.shards import remote

NEEDED = "needs s3fs and moto[s3,server], 110 MB that the test extra leaves out"
pytest.importorskip("s3fs", reason=NEEDED)
server = pytest.importorskip("moto.server", reason=NEEDED)


@pytest.fixture
def bucket(monkeypatch):
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    for name, value in (("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "x"),
                        ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    remote._opened.cache_clear()
    fs = remote._file_system("s3://bucket")
    fs.mkdirs("s3://bucket", exist_ok=True)
    yield fs
    remote._opened.cache_clear()
    moto.stop()


def test_shards_on_s3_are_listed_and_read(tmp_path, bucket, monkeypatch):
    manifest = write_clips(tmp_path / "files", 12)
    assert manifest_program(manifest, "--shards", tmp_path / "shards", "--shard-size", "60K")[0] == 0
    for path in (tmp_path / "shards").glob("train-*.tar"):
        bucket.pipe(f"s3://bucket/a/{path.name}", path.read_bytes())
    code, _, err = manifest_program("s3://bucket/a", "--ext", "tar", "--dest", tmp_path / "m")
    assert code == 0, err
    rows = np.arange(12)
    here = AudioDataset(read_manifest(manifest), pad=True).batch(rows, 1).source.numpy()
    there = AudioDataset(read_manifest(tmp_path / "m/train.tsv"), pad=True)
    there.expect(rows)
    assert np.array_equal(there.batch(rows, 1).source.numpy(), here)
    bucket.pipe("s3://bucket/a/train-000000.tar", (tmp_path / "shards/train-000000.tar").read_bytes()[::-1])
    with pytest.raises(ShardError, match="has changed since its manifest was written"):
        AudioDataset(read_manifest(tmp_path / "m/train.tsv"), pad=True).batch(rows, 1)
    bucket.rm("s3://bucket/a/train-000000.tar")
    with pytest.raises(ShardError, match="there is no such file"):
        AudioDataset(read_manifest(tmp_path / "m/train.tsv"), pad=True).batch(rows, 1)


def test_an_s3_server_that_is_gone_is_one_line(bucket, monkeypatch):
    monkeypatch.setattr(remote, "sleep", lambda seconds: None)
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asked.append(listener.accept()[0].close())

        threading.Thread(target=hang_up, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        remote._opened.cache_clear()
        with pytest.raises(
            ShardError, match=r"^s3://bucket: gave up after 8 tries to read the shard s3://bucket/x.tar"
        ):
            remote.RemoteFile("s3://bucket/x.tar").read(0, 10)
    # One try asks for a file and then for a folder; neither s3fs nor botocore tries again by itself.
    assert len(asked) == 2 * 8
