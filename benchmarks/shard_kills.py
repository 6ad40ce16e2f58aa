"""Kills trainings on shards from a server at random moments, and compares how they end with the run on files.

    python benchmarks/shard_kills.py [--kills 20] [--kind wav2vec2] [--seed 1]

The server is moto's S3 where `s3fs` and `moto[server,s3]` are installed, else one that resets, cuts and refuses
requests (`tests/helpers/fault_server.py`). Runs are those of `random_kills.py`, with another number of workers after
each kill; at every end, all of the last checkpoint but the times must equal that of the run on files, to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks"), str(REPOSITORY / "tests/helpers")]

from random_kills import Run, assert_same_end, torment  # noqa: E402
from toy_speech import prepare  # noqa: E402

from w2v_cli.manifest import main as manifest_main  # noqa: E402

MIDDLE = 12  # updates at which the run of two ranks ends, of 24


def serve_s3(tars: str, queue: Any) -> None:
    """Serve a folder as a bucket, in a process of its own: runs that are forked inherit no connection and no thread."""
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="bucket")
    for path in Path(tars).glob("*.tar"):
        client.put_object(Bucket="bucket", Key=path.name, Body=path.read_bytes())
    queue.put(f"http://{host}:{port}")
    threading.Event().wait()


@contextlib.contextmanager
def served(tars: Path) -> Iterator[str]:
    """Serve a folder; give its address."""
    if importlib.util.find_spec("s3fs") is None or importlib.util.find_spec("moto") is None:
        from fault_server import fault_server

        with fault_server(tars) as server:
            server.faults.extend([503, None, None, "reset", None, "short", None, None] * 50)
            yield server.url
        return
    import s3fs  # noqa: F401 - here, before the runs are forked: each import would take longer than its training

    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=serve_s3, args=(str(tars), queue), daemon=True)
    process.start()
    os.environ["AWS_ENDPOINT_URL"] = queue.get(timeout=120)
    try:
        yield "s3://bucket"
    finally:
        process.kill()


def change_ranks(kind: str, data: Path, folder: Path, seconds: float) -> None:
    """Kill a run, let two ranks go on with it and one end it, and compare its end with that in `folder / "whole"`.

    Args:
        kind: of model.
        data: folder of the shards' manifests.
        folder: where runs are saved.
        seconds: of training before the kill.
    """
    place = folder / "ranks"
    Run(kind, data, place, 0).kill_after(seconds)
    two = ["--distributed-world-size", 2, "--update-freq", 1, "--max-update", MIDDLE]
    Run(kind, data, place, 1, *two).wait()
    Run(kind, data, place, 0).wait()
    assert_same_end(place, folder / "whole", kind)


def main() -> int:
    """Torment runs, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kind", default="wav2vec2")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, tars, remote = prepare(folder, 60), folder / "tars", folder / "remote"
        remote.mkdir()
        for split in ("train", "valid"):
            if manifest_main([str(files / f"{split}.tsv"), "--shards", str(tars), "--shard-size", "300K"]):
                return 1
        with served(tars) as url:
            for path in tars.iterdir():
                if path.suffix != ".tar":
                    lines = path.read_text().splitlines()
                    is_manifest = path.name in ("train.tsv", "valid.tsv")
                    (remote / path.name).write_text("\n".join([url, *lines[1:]] if is_manifest else lines) + "\n")
            rng = random.Random(options.seed)
            counts = torment(options.kind, files, folder / "runs", options.kills, rng, remote)
            change_ranks(options.kind, remote, folder / "runs", rng.uniform(0.5, 1.0))
    print(f"{url}, {options.kind}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
          + ", and one end after two ranks")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
