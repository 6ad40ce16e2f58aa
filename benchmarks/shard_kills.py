"""Kills trainings on shards from a server at random moments, and compares how they end with the run on files.

    python benchmarks/shard_kills.py [--kills 20] [--kind wav2vec2] [--seed 1]

The server is moto's S3 where `s3fs` and `moto[server,s3]` are installed, else one that resets, cuts and refuses
requests (`tests/helpers/fault_server.py`). Runs are those of `random_kills.py`, with another number of workers after
each kill; at every end, all of the last checkpoint but the times must equal that of the run on files, to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks"), str(REPOSITORY / "tests/helpers")]

from random_kills import torment  # noqa: E402
from toy_speech import prepare  # noqa: E402

from w2v_cli.manifest import main as manifest_main  # noqa: E402


@contextlib.contextmanager
def served(tars: Path) -> Iterator[str]:
    """Serve a folder; give its address."""
    try:
        import s3fs
        from moto.server import ThreadedMotoServer
    except ImportError:
        from fault_server import fault_server

        with fault_server(tars) as server:
            server.faults.extend([503, None, None, "reset", None, "short", None, None] * 50)
            yield server.url
        return
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    os.environ.update(AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    # In a process of its own: none of the runs may inherit a connection.
    pid = os.fork()
    if not pid:
        fs = s3fs.S3FileSystem()
        fs.mkdirs("s3://bucket", exist_ok=True)
        for path in tars.glob("*.tar"):
            fs.pipe(f"s3://bucket/{path.name}", path.read_bytes())
        os._exit(0)
    os.waitpid(pid, 0)
    yield "s3://bucket"
    moto.stop()


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
    print(f"{url}, {options.kind}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
