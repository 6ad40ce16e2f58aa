"""Manifests of ten million clips, and the listing of a folder against a serial loop over headers.

    python benchmarks/manifests.py FOLDER [--lines 10000000] [--files 50000] [--rounds 5]

First a manifest is written, opened, and cut into the batches of the published BASE command. Then the FLAC files of
FOLDER are given `--files` names (hard links, or else copies), and `w2v-manifest --jobs 2`, from its start to its end,
takes turns with the original's loop, `soundfile.info` of one file after the other, in one process.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
LOOP = """
import glob, os, sys, soundfile
for name in glob.iglob(os.path.join(sys.argv[1], "**/*.flac"), recursive=True):
    print(f"{os.path.relpath(os.path.realpath(name), sys.argv[1])}\\t{soundfile.info(name).frames}")
"""


def open_manifest(folder: Path, lines: int) -> None:
    """Write, read and plan."""
    from w2v.data.batch_sampler import plan_batches
    from w2v.data.dataset import AudioDataset
    from w2v.data.manifest import read_manifest

    path = folder / "train.tsv"
    with open(path, "w") as file:
        file.write(f"{folder}\n")
        for chapter in range(lines // 1000):
            names = (
                f"train-clean-100/{chapter:05d}/{chapter % 77:03d}/{chapter:05d}-{i:04d}.flac" for i in range(1000)
            )
            file.writelines(f"{name}\t{30000 + (chapter * 1000 + i) * 7919 % 250000}\n" for i, name in enumerate(names))
    begin = time.perf_counter()
    manifest = read_manifest(path)
    opened = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(manifest)} lines, {path.stat().st_size / 1e6:.0f} MB: opened in {opened:.1f} s, at most {peak:.2f} GB")
    clips = AudioDataset(manifest, max_sample_size=250_000, min_sample_size=32_000)
    plan = plan_batches(clips.sizes, clips.lengths, seed=1, max_tokens=1_400_000, batch_size=None)
    planned = time.perf_counter() - begin
    print(f"with a plan of {len(plan)} batches: {planned:.1f} s", flush=True)


def link(sources: list[Path], target: Path, files: int) -> None:
    """Give the sources many names."""
    for number in range(files):
        folder = target / f"{number // 100:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        source, name = sources[number % len(sources)], folder / f"{number}.flac"
        try:
            os.link(source, name)
        except OSError:
            name.write_bytes(source.read_bytes())


def timed(command: list[str]) -> tuple[float, float]:
    """Run a program; return its wall time and the CPU time of all its processes."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environ)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scan(folder: Path, rounds: int) -> None:
    """Let both take turns."""
    ours = ["-m", "w2v_cli.manifest", str(folder), "--dest", str(folder.parent / "made"), "--jobs", "2"]
    pairs = [(timed(ours), timed(["-c", LOOP, str(folder)])) for _ in range(rounds)]
    (ours_wall, ours_cpu), (loop_wall, loop_cpu) = (np.array(side).T for side in zip(*pairs, strict=True))
    print(f"w2v-manifest {np.median(ours_wall):.1f} s, the loop {np.median(loop_wall):.1f} s")
    ratios = np.median(loop_wall / ours_wall), loop_wall.min() / ours_wall.min(), np.median(ours_cpu / loop_cpu)
    print("{:.2f} x as fast ({:.2f} x in the best rounds) with {:.2f} x the CPU time".format(*ratios))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=10**7)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        open_manifest(Path(name), options.lines)
        link(sorted(options.folder.rglob("*.flac")), Path(name) / "audio", options.files)
        scan(Path(name) / "audio", options.rounds)


if __name__ == "__main__":
    main()
