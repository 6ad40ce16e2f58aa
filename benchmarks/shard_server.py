"""Reads shards from a server with a latency and a line: which share of the line is used, and how much memory is held.

    python benchmarks/shard_server.py [--shards 20] [--megabytes 20] [--prefetch 64] [--latency 0.02] [--line 50]

The server is another process of this machine. Bytes alone: clips are fetched in the order of their shards and thrown
away. Batches: the data path of a training (`--shuffle-shards 4`, crops), without a model and in one process; the server
has no bound there. Resident size is taken after each quarter of the shards, beside that of the same clips as files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/helpers")]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

from w2v.data.dataset import AudioDataset  # noqa: E402
from w2v.data.iterator import EpochIterator  # noqa: E402
from w2v.data.manifest import Manifest, read_manifest, write_manifest  # noqa: E402
from w2v.data.shard_order import find_blocks, plan_by_shards  # noqa: E402
from w2v.shards.store import ShardStore  # noqa: E402
from w2v_cli.manifest import main as manifest_main  # noqa: E402

RATE, SECONDS = 16000, 12
QUARTERS = 4


def prepare(folder: Path, shards: int, megabytes: int) -> None:
    """Write clips of noise as WAV, and pack them."""
    noise = (3000 * np.random.default_rng(0).normal(size=2 * SECONDS * RATE)).astype(np.int16)
    count = shards * megabytes * 10**6 // (2 * SECONDS * RATE + 1024)
    names, sizes = [], []
    (folder / "files").mkdir()
    for number in range(count):
        names.append(f"{number:05d}.wav")
        sizes.append(SECONDS * RATE)
        start = number % (SECONDS * RATE)
        soundfile.write(folder / "files" / names[-1], noise[start : start + SECONDS * RATE], RATE, subtype="PCM_16")
    write_manifest(folder / "train.tsv", str(folder / "files"), names, sizes)
    if manifest_main([str(folder / "train.tsv"), "--shards", str(folder / "tar"), "--shard-size", f"{megabytes}M"]):
        raise SystemExit(1)


def serve(folder: str, latency: float, line: float, queue: Any) -> None:
    """Hand out a folder."""
    from fault_server import fault_server

    with fault_server(Path(folder)) as served:
        served.latency, served.rate = latency, line
        queue.put(served.url)
        time.sleep(3600)


def at(manifest: Manifest, url: str, prefetch: int) -> Manifest:
    """Return the clips of shards, as they lie on a server."""
    return dataclasses.replace(manifest, root=url, store=ShardStore(url, manifest.identities, prefetch))


def fetch(clips: Manifest) -> tuple[float, float]:
    """Fetch the bytes of all clips; return wall time and CPU seconds."""
    begin, cpu = time.perf_counter(), time.process_time()
    for row in range(len(clips)):
        if row % 64 == 0:
            clips.expect(range(row + 64 if row else 0, min(row + 128, len(clips))))
        source: Any = clips.stretch(row)[0]
        source.load()
    return time.perf_counter() - begin, time.process_time() - cpu


def resident() -> float:
    """Return the megabytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def read_batches(manifest: Manifest, queue: Any) -> None:
    """Read an epoch of batches; put the resident size after each quarter."""
    torch.set_num_threads(1)
    clips = AudioDataset(manifest, max_sample_size=250_000)
    options: dict[str, Any] = dict(seed=1, max_tokens=1_400_000, batch_size=None, multiple=8, name_of=str)
    packed = read_manifest(Path(manifest.source).parent / "tar/train.tsv")  # the same batches for files
    plan, order = plan_by_shards(find_blocks(packed, clips.rows), 4, clips.sizes, clips.lengths, **options)
    epochs = EpochIterator(clips, plan.batches, seed=1, shard_order=order)
    held, count = [resident()], len(plan.batches)
    for number, _ in enumerate(epochs.updates(1), 1):
        if number * QUARTERS // count > (number - 1) * QUARTERS // count:
            held.append(resident())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    queue.put({"MB at first and after each quarter": [round(size, 1) for size in held],
               "peak MB": round(int(peak.split()[1]) * 1024 / 1e6, 1)})  # fmt: skip


def main() -> int:
    """Measure, and print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=20, help="of a shard")
    parser.add_argument("--prefetch", type=int, default=64, help="--prefetch-bytes, in megabytes")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--line", type=float, default=50, help="megabytes per second over all connections")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    with tempfile.TemporaryDirectory() as name:
        folder, prefetch = Path(name), options.prefetch * 10**6
        prepare(folder, options.shards, options.megabytes)
        files = read_manifest(folder / "train.tsv")
        tars = dataclasses.replace(read_manifest(folder / "tar/train.tsv"), source=str(folder / "train.tsv"))
        size = sum(path.stat().st_size for path in (folder / "tar").glob("*.tar"))
        for line in (options.line * 1e6, 0.0):
            server = spawn.Process(target=serve, args=(str(folder / "tar"), options.latency, line, queue), daemon=True)
            server.start()
            clips = at(tars, queue.get(), prefetch)
            if line:
                wall, cpu = min(fetch(at(tars, clips.root, prefetch)) for _ in range(options.repeats))
                print(json.dumps({"bytes alone": {"MB": round(size / 1e6, 1), "seconds": round(wall, 3),
                                                  "CPU seconds": round(cpu, 3),
                                                  "share of the line": round(size / wall / line, 3)}}))  # fmt: skip
            else:
                for label, manifest in (("files", files), ("server", clips)):
                    process = spawn.Process(target=read_batches, args=(manifest, queue))
                    process.start()
                    print(json.dumps({label: queue.get()}), flush=True)
                    process.join()
            server.kill()
            server.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
