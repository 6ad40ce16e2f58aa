"""Compares reading clips from shards with reading them from files, and with other readers of the same shards.

    python benchmarks/shards.py [--clips 400] [--seconds 12] [--shard-size 8M] [--repeats 3] [--workers 1,4]

Seconds of audio per second, and MB/s, of a training's data path (workers, batches, crops): files and tar shards on the
disk, WAV and FLAC; tar shards from a server in another process with 20 ms of latency and 50 MB/s; `webdataset`,
`datasets` (streaming) and `lhotse` on the same files with the same decoder, where they are installed. Runs take turns;
the best of the repeats counts. `shard_server.py` measures line and memory.
"""

from __future__ import annotations

import argparse
import importlib.util
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


def read_datasets(shards: list[str]) -> tuple[float, float]:
    """Read the same clips with `datasets`, streaming; its own decoding needs torchcodec, so ours is used."""
    import datasets

    text, content = datasets.Value("string"), datasets.Value("binary")
    fields = datasets.Features({"__key__": text, "__url__": text, "flac": content})  # its Audio wants torchcodec, too
    begin, cpu = time.perf_counter(), _cpu()
    found = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True, features=fields)
    for sample in found:
        soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
    return time.perf_counter() - begin, _cpu() - cpu


def write_shar(files: Path, folder: Path, per_shard: int) -> None:
    """Write the same files in the layout of lhotse, untouched."""
    from lhotse import CutSet, Recording, RecordingSet

    paths = sorted(files.glob("*.flac"))
    recordings = RecordingSet.from_recordings(Recording.from_file(path, recording_id=path.stem) for path in paths)
    folder.mkdir()
    cuts = CutSet.from_manifests(recordings=recordings)
    cuts.to_shar(folder, fields={"recording": "original"}, shard_size=per_shard)


def read_lhotse(folder: Path) -> tuple[float, float]:
    """Read the same clips with `lhotse`, which decodes them by soundfile."""
    from lhotse import CutSet

    begin, cpu = time.perf_counter(), _cpu()
    for cut in CutSet.from_shar(in_dir=folder):
        cut.load_audio()
    return time.perf_counter() - begin, _cpu() - cpu


def peers(folder: Path, per_shard: int) -> dict[str, Any]:
    """Return the readers of others that are installed."""
    shards = sorted(map(str, (folder / "shards-flac").glob("*.tar")))
    found: dict[str, Any] = {}
    for name, read_them in (("webdataset", read_webdataset), ("datasets", read_datasets)):
        if importlib.util.find_spec(name) is not None:
            found[f"{name}, tar, flac, this process"] = lambda run=read_them: run(shards)
    if importlib.util.find_spec("lhotse") is not None:
        write_shar(folder / "flac", folder / "shar", per_shard)
        found["lhotse, shar, flac, this process"] = lambda: read_lhotse(folder / "shar")
    return found


def serve(folder: str, queue: Any) -> None:
    from fault_server import fault_server

    with fault_server(Path(folder)) as served:
        served.latency, served.rate = LATENCY, LINE
        queue.put(served.url)
        time.sleep(3600)


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
        num_shards = len(list((folder / "shards-flac").glob("*.tar")))
        own = folder / "shards-flac/flac.tsv"
        runs["tar, flac, this process"] = ("flac", lambda: read(own, 0, 4))
        for name, call in peers(folder, -(-options.clips // num_shards)).items():
            runs[name] = ("flac", call)
        for _ in range(options.repeats):
            for run, (kind, call) in runs.items():
                wall, cpu = call()
                best = results.setdefault(run, {"seconds": wall, "cpu": cpu})
                best["seconds"], best["cpu"] = min(best["seconds"], wall), min(best["cpu"], cpu)
                best["MB/s"] = size[kind] / best["seconds"] / 1e6
                best["audio seconds per second"] = audio[kind] / best["seconds"]
        server.kill()
    for run, row in results.items():
        print(f"{run:40} " + "  ".join(f"{name} {value:9.2f}" for name, value in row.items()))
    print(json.dumps({"runs": results, "shards": num_shards}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
