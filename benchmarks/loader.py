"""Reading, cropping and batching of pretraining, per core, against bare reads; and the memory of worker processes.

    python benchmarks/loader.py FOLDER [--rounds 15] [--clips 600] [--workers 4]

FOLDER holds mono FLAC files of 16 kHz. They are copied, as FLAC and as WAV of 16 bits, into a temporary folder, each
several times until there are enough, so all come from the system's cache. Both sides read the same files in the same
order, the batches of the published BASE command; the peer calls `soundfile.read` and drops what it gets. Times are CPU
times of one process each, taken in turns, after an epoch in which the C library learns what sizes it is asked for.
Then the same is asked of a worker process, whose batches another process gets. At last 1, 2, ... workers read epochs,
and the memory of all processes together is added up, shared pages once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from machine import machine
from side_by_side import Step, ratio, take_turns

MAX_TOKENS, LONGEST, SHORTEST = 1_400_000, 250_000, 32_000
RATE = 16000
BATCHES = 20  # per round


def copy(folder: Path, target: Path, clips: int) -> None:
    """Write the clips, `flac/0.flac` and `wav/0.wav` and so on."""
    import soundfile

    sources = sorted(folder.rglob("*.flac"))
    for kind in ("flac", "wav"):
        (target / kind).mkdir()
    for number in range(clips):
        source = sources[number % len(sources)]
        (target / "flac" / f"{number}.flac").write_bytes(source.read_bytes())
        samples, rate = soundfile.read(source, dtype="int16")
        soundfile.write(target / "wav" / f"{number}.wav", samples, rate)


def data_set(folder: str) -> tuple[Any, list[Any]]:
    """Return our data set of a folder of copies, and its batches."""
    import soundfile

    from w2v.data.batch_sampler import plan_batches
    from w2v.data.dataset import AudioDataset
    from w2v.data.manifest import make_manifest

    names = sorted(os.listdir(folder))
    sizes = [soundfile.info(os.path.join(folder, name)).frames for name in names]
    clips = AudioDataset(make_manifest(folder, names, sizes), max_sample_size=LONGEST, min_sample_size=SHORTEST)
    plan = plan_batches(clips.sizes, clips.lengths, seed=1, max_tokens=MAX_TOKENS, batch_size=None)
    return clips, plan.batches


def bare(folder: str, normalize: bool) -> Step:
    """Return the reading of the next batches' files, one after the other."""
    import soundfile

    clips, batches = data_set(folder)
    paths = [[clips.path(int(index)) for index in batch] for batch in batches]
    place = iter(range(10**9))

    def step() -> None:
        for _ in range(BATCHES):
            for path in paths[next(place) % len(paths)]:
                soundfile.read(path, dtype="float32")

    return step


def ours(folder: str, normalize: bool) -> Step:
    """Return the making of the next batches."""
    import torch

    torch.set_num_threads(1)  # as in a worker
    clips, batches = data_set(folder)
    clips.normalize = normalize
    place = iter(range(10**9))

    def step() -> None:
        for _ in range(BATCHES):
            clips.batch(batches[next(place) % len(batches)], seed=1)

    return step


def in_a_worker(folder: str, epochs: int) -> float:
    """Return the CPU time of bare reads by that of a worker process which makes the same batches."""
    clips, batches = data_set(folder)
    read = bare(folder, False)
    rounds = len(batches) * epochs // BATCHES
    read()
    start = time.process_time()
    for _ in range(rounds):
        read()
    theirs = time.process_time() - start
    for _, worker in epochs_of(clips, (batches * epochs)[: rounds * BATCHES], 1):
        ours = cpu_time(worker[0])
    return theirs / ours


def epochs_of(clips: Any, batches: list[Any], workers: int) -> Iterator[tuple[int, list[int]]]:
    """Read batches in workers; yield the number of each and the processes."""
    from w2v.data.iterator import EpochIterator

    epochs = EpochIterator(clips, batches, seed=1, num_workers=workers, start_method="fork")
    for number, _ in enumerate(epochs.updates(1)):
        yield number, [process.pid for process in multiprocessing.active_children() if process.pid]
    epochs.close()


def cpu_time(pid: int) -> float:
    """Return the CPU time in seconds that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(folder: str, workers: int) -> float:
    """Return the memory in MB of this process and its workers, the median over some epochs of reading."""
    clips, batches = data_set(folder)
    found = []
    for number, processes in epochs_of(clips, batches * 3, workers):
        if number > len(batches) and number % 20 == 0:
            found.append(sum(map(shared_out, [os.getpid(), *processes])))
    return statistics.median(found)


def shared_out(pid: int) -> float:
    """Return the proportional set size of a process in MB: a page that n processes share counts for 1/n."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)) / 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        copy(options.folder, Path(name), options.clips)
        for kind, normalize in (("flac", False), ("wav", False), ("flac", True), ("wav", True)):
            given = (os.path.join(name, kind), normalize)
            sides = [("w2v", ours, given), ("soundfile", bare, given)]
            warm_up = options.clips // BATCHES // 5 + 1
            mine, theirs = take_turns(sides, options.rounds, warm_up, clock=time.process_time)
            label = f"{kind}, --normalize" if normalize else kind
            print(f"{label}: {ratio(mine, theirs):.2f} of the rate of bare reads", flush=True)
        for kind in ("flac", "wav"):
            share = apart(in_a_worker, os.path.join(name, kind), 4)
            print(f"{kind}, in a worker: {share:.2f}", flush=True)
        for workers in range(1, options.workers + 1):
            print(f"{workers} workers: {apart(memory, os.path.join(name, 'flac'), workers):.0f} MB in all", flush=True)


def apart(function: Callable[..., float], *arguments: Any) -> float:
    """Call a function in a process of its own, so that it finds the memory of a fresh one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
