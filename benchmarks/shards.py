"""Compares reading clips from shards with reading them from files, and with other readers of the same shards.

    python benchmarks/shards.py [--clips 400] [--seconds 12] [--shard-size 8M] [--repeats 3] [--workers 1,4]

Seconds of audio per second, and MB/s, of a training's data path (workers, batches, crops): files and tar shards on the
disk, WAV and FLAC; tar shards from a server in another process with 20 ms of latency and 50 MB/s; the package
`webdataset` on the same shards with the same decoder, where it is installed. Runs take turns; the best of the repeats
counts. Memory: the largest resident size of a process that reads half of the shards, and of one that reads all.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
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

from w2v.data.batch_sampler import plan_batches  # noqa: E402
from w2v.data.dataset import AudioDataset  # noqa: E402
from w2v.data.iterator import EpochIterator  # noqa: E402
from w2v.data.manifest import read_manifest, write_manifest  # noqa: E402
from w2v.data.shard_order import find_blocks, plan_by_shards  # noqa: E402
from w2v_cli.manifest import main as manifest_main  # noqa: E402

RATE, LATENCY, LINE = 16000, 0.02, 50e6
MAX_TOKENS = 1_400_000


def prepare(folder: Path, count: int, seconds: float, shard_size: str) -> None:
    """Write clips of noise with the spectrum of speech as WAV and as FLAC, and pack them."""
    rng = np.random.default_rng(0)
    for kind in ("wav", "flac"):
        (folder / kind).mkdir()
        names, sizes = [], []
        for number in range(count):
            size = int(rng.uniform(0.5, 1.5) * seconds * RATE)
            samples = np.cumsum(rng.normal(size=size)) % 2 - 1
            names.append(f"{number:05d}.{kind}")
            sizes.append(size)
            soundfile.write(folder / kind / names[-1], 0.1 * samples, RATE, subtype="PCM_16")
        write_manifest(folder / f"{kind}.tsv", str(folder / kind), names, sizes)
        shards = folder / f"shards-{kind}"
        code = manifest_main([str(folder / f"{kind}.tsv"), "--shards", str(shards), "--shard-size", shard_size])
        if code:
            raise SystemExit(code)


def read(manifest: Path, workers: int, shuffle_shards: int | None) -> tuple[float, float]:
    """Return the wall time and the CPU seconds of one epoch of batches, workers included."""
    clips = AudioDataset(read_manifest(manifest), max_sample_size=250_000)
    options: dict[str, Any] = dict(seed=1, max_tokens=MAX_TOKENS, batch_size=None, multiple=8, name_of=str)
    order = None
    if shuffle_shards is None:
        plan = plan_batches(clips.sizes, clips.lengths, **options)
    else:
        blocks = find_blocks(clips.manifest, clips.rows)
        plan, order = plan_by_shards(blocks, shuffle_shards, clips.sizes, clips.lengths, **options)
    epochs = EpochIterator(clips, plan.batches, seed=1, num_workers=workers, shard_order=order)
    begin, cpu = time.perf_counter(), _cpu()
    for group in epochs.updates(1):
        float(group[0][0].source[0, 0])
    epochs.close()
    return time.perf_counter() - begin, _cpu() - cpu


def _cpu() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in usage)


def read_webdataset(shards: list[str]) -> tuple[float, float]:
    """Read the same clips with the package `webdataset` and the same decoder."""
    import webdataset as wds

    begin, cpu = time.perf_counter(), _cpu()
    for sample in wds.WebDataset(shards, shardshuffle=False):
        content = sample.get("wav") or sample.get("flac")
        soundfile.read(io.BytesIO(content), dtype="float32")
    return time.perf_counter() - begin, _cpu() - cpu


def fetch(manifest: Path) -> tuple[float, float]:
    """Fetch the bytes of all clips, in the order of their shards, without decoding them."""
    clips = read_manifest(manifest)
    begin, cpu = time.perf_counter(), _cpu()
    for row in range(len(clips)):
        if row % 64 == 0:
            clips.expect(range(row + 64 if row else 0, min(row + 128, len(clips))))
        clips.stretch(row)[0].load()
    return time.perf_counter() - begin, _cpu() - cpu


def serve(folder: str, queue: Any) -> None:
    from fault_server import fault_server

    with fault_server(Path(folder)) as served:
        served.latency, served.rate = LATENCY, LINE
        queue.put(served.url)
        time.sleep(3600)


def measure_memory(manifest: str, rows: int, queue: Any) -> None:
    """Read the first rows in their order, and report the largest resident size in MB before and after."""
    torch.set_num_threads(1)
    clips = AudioDataset(read_manifest(manifest), max_sample_size=250_000)
    batches = [np.arange(first, min(first + 8, rows)) for first in range(0, rows, 8)]
    epochs = EpochIterator(clips, batches, seed=1, curriculum=1)
    for _ in epochs.updates(1):
        pass
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> int:
    """Measure, and print a table and the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--shard-size", default="8M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", default="1,4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spawn = multiprocessing.get_context("spawn")
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.clips, options.seconds, options.shard_size)
        size = {k: sum(p.stat().st_size for p in (folder / f"shards-{k}").glob("*.tar")) for k in ("wav", "flac")}
        audio = {k: int(read_manifest(folder / f"{k}.tsv").sizes.sum()) / RATE for k in ("wav", "flac")}
        queue = spawn.Queue()
        server = spawn.Process(target=serve, args=(str(folder / "shards-flac"), queue), daemon=True)
        server.start()
        url = queue.get()
        remote = folder / "remote.tsv"
        lines = (folder / "shards-flac/flac.tsv").read_text().splitlines()
        remote.write_text("\n".join([url, *lines[1:]]) + "\n")
        runs: dict[str, tuple[str, Any]] = {}
        for kind in ("wav", "flac"):
            for workers in map(int, options.workers.split(",")):
                tag = f"{kind}, {workers} workers"
                runs[f"files, {tag}"] = (kind, lambda k=kind, w=workers: read(folder / f"{k}.tsv", w, None))
                runs[f"tar, {tag}"] = (kind, lambda k=kind, w=workers: read(folder / f"shards-{k}/{k}.tsv", w, None))
                if kind == "flac":
                    runs[f"server, {tag}"] = (kind, lambda w=workers: read(remote, w, 4))
                    runs[f"server, any clip, {tag}"] = (kind, lambda w=workers: read(remote, w, None))
        runs["server, bytes alone, this process"] = ("flac", lambda: fetch(remote))
        try:
            import webdataset  # noqa: F401
        except ImportError:
            print("webdataset is not installed", file=sys.stderr)
        else:
            shards = sorted(map(str, (folder / "shards-flac").glob("*.tar")))
            runs["webdataset, tar, flac, this process"] = ("flac", lambda: read_webdataset(shards))
            own = folder / "shards-flac/flac.tsv"
            runs["tar, flac, this process"] = ("flac", lambda: read(own, 0, 4))
        for _ in range(options.repeats):
            for run, (kind, call) in runs.items():
                wall, cpu = call()
                best = results.setdefault(run, {"seconds": wall, "cpu": cpu})
                best["seconds"], best["cpu"] = min(best["seconds"], wall), min(best["cpu"], cpu)
                best["MB/s"] = size[kind] / best["seconds"] / 1e6
                best["audio seconds per second"] = audio[kind] / best["seconds"]
        memory = {}
        half = options.clips // 2 // 8 * 8
        for label, path, rows in (("files", folder / "flac.tsv", options.clips), ("half of the shards", remote, half),
                                  ("all shards", remote, options.clips)):  # fmt: skip
            process = spawn.Process(target=measure_memory, args=(str(path), rows, queue))
            process.start()
            memory[label] = queue.get()
            process.join()
        num_shards = len(list((folder / "shards-flac").glob("*.tar")))
        server.kill()
    for run, row in results.items():
        print(f"{run:40} " + "  ".join(f"{name} {value:9.2f}" for name, value in row.items()))
    print(f"largest resident size, MB, {num_shards} shards: {memory}")
    print(json.dumps({"runs": results, "memory": memory, "shards": num_shards}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
