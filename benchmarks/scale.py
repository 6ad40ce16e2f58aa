"""Works out what a run needs from one GPU and a thousand hours to a thousand GPUs and a million hours.

    python benchmarks/scale.py [--measure] [--trainings] [--clips 200000]

With `--measure` the constants of this machine are measured first: memory and time of a manifest of shards and of its
batches, the spread of work between ranks, an all-reduce over 2 and 4 processes, the writing of a checkpoint; the rate
of the machine follows from 2 processes, and the time of 4 is compared. Without it, the recorded ones are used.
Constants that no CPU can give are cited beside their values. `--trainings` holds the model of the tables against whole
trainings of this machine, with 1, 2 and 4 processes. Tables go to stdout; `docs/scale.md` says what follows.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from machine import resident  # noqa: E402

from w2v.data.batch_sampler import plan_batches  # noqa: E402
from w2v.data.manifest import read_manifest  # noqa: E402

RATE = 16000
CLIP_SECONDS = 12.3  # mean of LibriSpeech's 281,241 clips, 960.9 hours


@dataclass(frozen=True)
class Constants:
    """What the tables are made of.

    Attributes:
        bytes_per_clip: of memory in a rank, manifest and batches.
        file_per_clip: bytes of a manifest's line.
        start_per_million: seconds of a rank's start for a million clips.
        straggler: ranks -> mean over updates of the largest batch over the mean one.
        checkpoint_rate: bytes per second at which a checkpoint is written and synced.
    """

    bytes_per_clip: float = 0.0
    file_per_clip: float = 0.0
    start_per_million: float = 0.0
    straggler: tuple[tuple[int, float], ...] = ()
    checkpoint_rate: float = 0.0


RECORDED = Constants(  # two cores of an AMD EPYC, shared with other jobs, torch 2.13, 2026-11-29
    bytes_per_clip=156,
    file_per_clip=71,
    start_per_million=2.4,
    straggler=((2, 1.051), (4, 1.082), (8, 1.105), (64, 1.128), (256, 1.131), (1024, 1.131)),
    checkpoint_rate=33e6,
)


@dataclass(frozen=True)
class Model:
    """A model and how fast it trains.

    Attributes:
        parameters: number of them.
        audio_per_second: seconds of audio that one V100 trains on per second.
        batch_seconds: of audio per GPU and update.
    """

    name: str
    parameters: float
    audio_per_second: float
    batch_seconds: float


# arXiv 2006.11477: BASE 64 V100, 400 k updates of 1.4 M samples per GPU in 1.6 days; LARGE 128 V100, 250 k updates of
# 1.2 M samples in 2.3 days.
MODELS = (
    Model("BASE", 95e6, 1.4e6 / RATE / (1.6 * 86400 / 400e3), 1.4e6 / RATE),
    Model("LARGE", 317e6, 1.2e6 / RATE / (2.3 * 86400 / 250e3), 1.2e6 / RATE),
)
FASTER = (
    5.0  # an H100 in bfloat16 against a V100 in float16: ratio of their dense peaks, 989 to 125, is 7.9; part of it
)
FLAC, WAV = 60e9 / (960.9 * 3600), 2 * RATE  # bytes per second of audio; LibriSpeech's archives have 60 GB
GPUS_PER_NODE = 8
# Bytes per second of a ring: within a node NVLink, between nodes the slower of NVLink and the node's network.
LINKS = {"NVLink, one node": 300e9, "8 x 400 Gb/s": 300e9, "100 Gb/s": 12.5e9, "10 Gb/s": 1.25e9}
OVERLAP = 0.5  # of an update is the backward pass of the last micro-batch's later half, beside which gradients travel
# arXiv 2407.21783: 419 unexpected interruptions in 54 days on 16,384 GPUs.
HOURS_BETWEEN_FAILURES_OF_A_GPU = 54 * 24 * 16384 / 419
RESTART_SECONDS = 120.0
VOLUME = 40_000_000  # bytes of the all-reduce that is measured

# A network small enough for a CPU, its gradients large enough to be seen: 20 million parameters, 80 MB.
TRAINING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec2", "--criterion", "wav2vec", "--infonce", "--quantize-targets"),
    *("--conv-feature-layers", "[(32, 20, 10), (64, 8, 4), (128, 4, 4), (128, 2, 2)]", "--encoder-layers", "6"),
    *("--encoder-embed-dim", "512", "--encoder-ffn-embed-dim", "2048", "--encoder-attention-heads", "8"),
    *("--conv-pos", "16", "--conv-pos-groups", "8", "--latent-vars", "40", "--final-dim", "64"),
    *("--optimizer", "adam", "--lr-scheduler", "fixed", "--lr", "0.0001", "--disable-validation", "--no-save"),
    *("--num-workers", "0", "--log-format", "json", "--seed", "1"),
)
TRAINING_TOKENS, TRAINING_CROP, TRAINING_CLIPS = 160_000, 62_500, 800


def straggler_of(constants: Constants, ranks: int) -> float:
    """Return the recorded factor of the next larger number of ranks."""
    return next((factor for count, factor in constants.straggler if count >= ranks), constants.straggler[-1][1])


def all_reduce_seconds(volume: float, ranks: int, link: float) -> float:
    """Return the time of a ring all-reduce where each rank has a link: it sends 2 (n - 1) / n of the volume."""
    return 2 * (ranks - 1) / ranks * volume / link


def shared_all_reduce_seconds(volume: float, ranks: int, rate: float) -> float:
    """Return the time of a ring all-reduce where all ranks share one link, such as the memory of a machine."""
    return ranks * all_reduce_seconds(volume, ranks, rate)


def tables(constants: Constants) -> None:
    """Print what follows from the constants."""
    print(
        "\nManifest and batches\n"
        "| hours | clips | manifest, GB | memory of a rank, GB | of a node of 8, GB | start, s |"
    )
    print("|---|---|---|---|---|---|")
    for hours in (1e3, 1e4, 1e5, 1e6):
        clips = hours * 3600 / CLIP_SECONDS
        memory = clips * constants.bytes_per_clip / 1e9
        start = clips / 1e6 * constants.start_per_million
        print(f"| {hours:,.0f} | {clips / 1e6:.2f} M | {clips * constants.file_per_clip / 1e9:.2f} | {memory:.2f} | "
              f"{8 * memory:.1f} | {start:.0f} |")  # fmt: skip
    print(
        "\nBytes per second of a node of 8 GPUs\n"
        "| model | GPU | update, s | FLAC, MB/s | WAV, MB/s |\n|---|---|---|---|---|"
    )
    for model in MODELS:
        for gpu, speed in (("V100", 1.0), ("H100", FASTER)):
            audio = model.audio_per_second * speed
            print(f"| {model.name} | {gpu} | {model.batch_seconds / audio:.3f} | {8 * audio * FLAC / 1e6:.0f} | "
                  f"{8 * audio * WAV / 1e6:.0f} |")  # fmt: skip
    print("\nUpdates on H100: efficiency over GPUs (share of the time in which a GPU computes)")
    print("| model | link | 8 | 64 | 256 | 1,024 |\n|---|---|---|---|---|---|")
    for model in MODELS:
        compute = model.batch_seconds / (model.audio_per_second * FASTER)
        for link, rate in LINKS.items():
            shares = []
            for ranks in (8, 64, 256, 1024):
                if link.startswith("NVLink") and ranks > GPUS_PER_NODE:
                    shares.append("-")
                    continue
                exposed = max(all_reduce_seconds(4 * model.parameters, ranks, rate) - OVERLAP * compute, 0.0)
                shares.append(f"{compute / (compute * straggler_of(constants, ranks) + exposed):.2f}")
            print(f"| {model.name} | {link} | {' | '.join(shares)} |")
    print("\nFailures and checkpoints\n| model | GPUs | checkpoint, GB | written in, s | hours between failures | "
          "best interval, min | time lost |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for model in MODELS:
        for ranks in (8, 64, 1024):
            size = 12 * model.parameters  # weights and two moments of Adam
            write = size / constants.checkpoint_rate
            between = HOURS_BETWEEN_FAILURES_OF_A_GPU / ranks * 3600
            interval = math.sqrt(2 * write * between)  # Young 1974
            lost = write / interval + (interval / 2 + RESTART_SECONDS) / between
            print(f"| {model.name} | {ranks:,} | {size / 1e9:.1f} | {write:.0f} | {between / 3600:,.0f} | "
                  f"{interval / 60:.0f} | {100 * lost:.2f} % |")  # fmt: skip
    print("\nWait for the slowest rank, from lengths: " + ", ".join(f"{n}: {f:.3f}" for n, f in constants.straggler))


# ---------------------------------------------------------------------------------------------------- measurements


def lengths_of(count: int) -> Any:
    """Return samples of clips spread as LibriSpeech's training clips: most near 14 to 16 s, a third spread below."""
    rng = np.random.default_rng(0)
    long = rng.normal(14.6, 1.0, count)
    short = rng.uniform(1.5, 14.0, count)
    return (np.clip(np.where(rng.random(count) < 0.6, long, short), 1.3, 24.5) * RATE).astype(np.int64)


def measure_start(count: int) -> tuple[Constants, list[Any], Any]:
    """Read a manifest of shards and make its batches."""
    sizes = lengths_of(count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.tsv"
        lines = (
            f"train-{row // 5000:06d}.tar:{row % 5000 * 205312 + 512}:204800:{row * 2654435761 % 2**32:08x}/"
            f"{row // 3000}/{row // 100 % 30}/{row // 3000}-{row // 100 % 30}-{row % 100:04d}.flac\t{size}\n"
            for row, size in enumerate(sizes.tolist())
        )
        path.write_text(f"{folder}\n" + "".join(lines))
        before, begin = resident(), time.process_time()
        manifest = read_manifest(path)
        plan = plan_batches(
            manifest.sizes, np.minimum(manifest.sizes, 250_000), seed=1, max_tokens=1_400_000, batch_size=None
        )
        seconds, held = time.process_time() - begin, resident() - before
        file_size = path.stat().st_size
    found = Constants(held / count, file_size / count, seconds / count * 1e6)
    return found, plan.batches, np.minimum(manifest.sizes, 250_000)


def measure_stragglers(batches: list[Any], lengths: Any) -> tuple[tuple[int, float], ...]:
    """Return how much longer the largest batch of an update is than the mean one, by ranks."""
    work = np.array(
        [len(batch) * int(lengths[batch].min()) for batch in batches], dtype=float
    )  # cropped to the shortest
    np.random.RandomState(2).shuffle(work)
    factors = []
    for ranks in (2, 4, 8, 64, 256, 1024):
        updates = work[: len(work) // ranks * ranks].reshape(-1, ranks)
        if len(updates):
            factors.append((ranks, float(updates.max(axis=1).mean() / updates.mean())))
    return tuple(factors)


def reduce_in_process(rank: int, size: int, folder: str, volume: int, queue: Any) -> None:
    """Sum a tensor over processes, and report the seconds of one sum."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/{size}", rank=rank, world_size=size)
    tensor = torch.ones(volume // 4)
    times = []
    for _ in range(8):
        torch.distributed.barrier()
        begin = time.perf_counter()
        torch.distributed.all_reduce(tensor)
        times.append(time.perf_counter() - begin)
    if rank == 0:
        queue.put(min(times))
    torch.distributed.destroy_process_group()


def measure_all_reduce(volume: int = VOLUME) -> dict[int, float]:
    """Return the seconds of an all-reduce of `volume` bytes over 2 and 4 processes of this machine."""
    context, found = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory() as folder:
        for size in (2, 4):
            queue = context.Queue()
            ranks = [
                context.Process(target=reduce_in_process, args=(rank, size, folder, volume, queue))
                for rank in range(size)
            ]
            for process in ranks:
                process.start()
            found[size] = queue.get()
            for process in ranks:
                process.join()
    return found


def measure_updates(manifests: Path, ranks: int, updates: int) -> float:
    """Return the seconds of an update of `w2v-train` with so many processes, the first quarter of updates aside."""
    quarter = updates // 4
    command = [sys.executable, "-m", "w2v_cli.train", str(manifests), *TRAINING]
    for flag, number in {
        "--max-tokens": TRAINING_TOKENS,
        "--max-sample-size": TRAINING_CROP,
        "--required-batch-size-multiple": 1,
        "--distributed-world-size": ranks,
        "--max-update": updates,
        "--log-interval": quarter,
    }.items():
        command += [flag, str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "train_inner" in line]
    rates = [float(json.loads(line[line.index("{") :]).get("ups", 0)) for line in lines]
    if done.returncode or len(rates) < 4:
        raise SystemExit(f"w2v-train ended with exit code {done.returncode}: {done.stderr[-500:]}")
    return sum(1 / rate for rate in rates[1:]) / len(rates[1:])


def write_training_set(folder: Path) -> tuple[Any, list[Any]]:
    """Write clips of noise a quarter as long as LibriSpeech's; return their cropped lengths, and their batches."""
    import soundfile

    from w2v.data.manifest import write_manifest

    rng = np.random.default_rng(0)
    sizes = lengths_of(TRAINING_CLIPS) // 4
    names = [f"{number:04d}.wav" for number in range(len(sizes))]
    for name, size in zip(names, sizes.tolist(), strict=True):
        soundfile.write(folder / name, 0.1 * rng.standard_normal(size), RATE, subtype="PCM_16")
    write_manifest(folder / "train.tsv", str(folder), names, sizes.tolist())
    lengths = np.minimum(sizes, TRAINING_CROP)
    plan = plan_batches(sizes, lengths, seed=1, max_tokens=TRAINING_TOKENS, batch_size=None, multiple=1)
    return lengths, plan.batches


def compare_trainings(updates: int) -> None:
    """Print what an update of 1, 2 and 4 processes takes beside what the model of the tables gives."""
    cores = len(os.sched_getaffinity(0))
    volume = 80_000_000
    rate = shared_all_reduce_seconds(volume, 2, 1.0) / measure_all_reduce(volume)[2]
    with tempfile.TemporaryDirectory() as folder:
        lengths, batches = write_training_set(Path(folder))
        stragglers = dict(measure_stragglers(batches, lengths))
        compute = measure_updates(Path(folder), 1, updates)
        print(f"\nTrainings on {cores} cores, all-reduce of 80 MB at {rate / 1e9:.2f} GB/s\n| processes | update, s | "
              "of the model, s | ratio |\n|---|---|---|---|")  # fmt: skip
        print(f"| 1 | {compute:.3f} | taken from it | |")
        for ranks in (2, 4):
            # Where processes outnumber cores they take turns: no core waits for the slowest rank while another works.
            share = max(ranks / cores, 1.0)
            waiting = stragglers[ranks] if ranks <= cores else 1.0
            busy = compute * share * waiting
            exposed = max(shared_all_reduce_seconds(volume, ranks, rate) - OVERLAP * compute * share, 0.0)
            predicted, taken = busy + exposed, measure_updates(Path(folder), ranks, updates)
            print(f"| {ranks} | {taken:.3f} | {predicted:.3f} | {taken / predicted:.2f} |")


def measure_checkpoint(size: int = 100_000_000) -> float:
    """Return bytes per second at which checkpoints are written."""
    from w2v.checkpoint import save_checkpoint

    state = {"model": {f"w{n}": torch.ones(size // 40) for n in range(10)}}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        save_checkpoint(Path(folder) / "x.pt", state)
        return size / (time.perf_counter() - begin)


def main() -> int:
    """Measure where that is asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure the constants of this machine first")
    parser.add_argument("--trainings", action="store_true", help="hold whole trainings against the model of the tables")
    parser.add_argument("--updates", type=int, default=24, help="of each of these trainings (default: 24)")
    parser.add_argument("--clips", type=int, default=200_000, help="of the manifest that is measured")
    options = parser.parse_args()
    constants = RECORDED
    if options.measure:
        found, batches, lengths = measure_start(options.clips)
        reduced = measure_all_reduce()
        rate = shared_all_reduce_seconds(VOLUME, 2, 1.0) / reduced[2]
        constants = replace(found, straggler=measure_stragglers(batches, lengths), checkpoint_rate=measure_checkpoint())
        predicted = shared_all_reduce_seconds(VOLUME, 4, rate)
        print(f"all-reduce of 40 MB: 2 processes {reduced[2]:.4f} s, {rate / 1e9:.2f} GB/s, so 4 should take "
              f"{predicted:.4f} s; they take {reduced[4]:.4f} s")  # fmt: skip
        print(constants)
    tables(constants)
    if options.trainings:
        compare_trainings(options.updates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
