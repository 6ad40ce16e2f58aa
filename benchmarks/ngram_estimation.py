"""`w2v-lm` beside KenLM's `lmplz`: time, memory, and perplexity on held-out lines, in interleaved runs.

    python benchmarks/ngram_estimation.py ../shared/data/lm_text/librispeech_train_clean_100.txt.gz [--runs 5]

`lmplz` is looked for on PATH, and left out where it is not there (it is in KenLM's source distribution, not in its
wheel). Every 50th line is held out. Results: benchmarks/ngram_estimation.md.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
MODELS = {"order 2": ["-o", "2"], "order 3": ["-o", "3"], "order 4": ["-o", "4"]}
MODELS["order 4, --prune 0 0 1"] = ["-o", "4", "--prune", "0", "0", "1"]
sys.path.insert(0, str(REPOSITORY))
W2V_LM = [sys.executable, "-m", "w2v_cli.lm"]


class Cost(NamedTuple):
    """What a run took."""

    wall: float
    cpu: float
    megabytes: float


def measure(command: Sequence[str]) -> Cost:
    """Run a command to its end."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    begin = os.times().elapsed
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return Cost(os.times().elapsed - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def perplexity(arpa: Path, held_out: Path) -> str:
    """Return the perplexities with and without unknown words."""
    command = [*W2V_LM, "--quiet", "--perplexity", str(held_out), "--lm", str(arpa)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    lines = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    return " / ".join(f"{float(line.split()[-1]):.3f}" for line in lines[:2])


def split(path: Path, folder: Path) -> tuple[Path, Path]:
    """Write the lines for training and every 50th, which is held out."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = content.splitlines(keepends=True)
    train, held_out = folder / "train.txt", folder / "held_out.txt"
    train.write_bytes(b"".join(line for number, line in enumerate(lines, 1) if number % 50))
    held_out.write_bytes(b"".join(lines[49::50]))
    return train, held_out


def print_reading(arpa: Path) -> None:
    """Print how long reading takes, and scoring of many histories and words at once, beside kenlm where it is there."""
    from w2v.lm.ngram_model import open_ngram_model

    begin = time.process_time()
    model = open_ngram_model(str(arpa))
    print(f"\nNgramModel reads the order-4 file in {time.process_time() - begin:.2f} CPU s", end="")
    words = np.array([model.index(word) for word in (model.words or ())])
    draw = np.random.default_rng(0)
    states = model.score(np.full(len(words), model.start()), words)[1]
    for number in (50, 500, 5000):
        some, following = draw.choice(states, number), draw.choice(words, number)
        begin = time.process_time()
        for _ in range(100):
            model.score(some, following)
        print(f"; {number} pairs at once: {1e4 * (time.process_time() - begin):.0f} us", end="")
    print(".")
    try:
        import kenlm
    except ImportError:
        return
    begin = time.process_time()
    kenlm.Model(str(arpa))
    print(f"kenlm reads it in {time.process_time() - begin:.2f} CPU s.")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lmplz", default=shutil.which("lmplz"), help="the program, where it is not on PATH")
    options = parser.parse_args()
    tools = {"w2v-lm": [*W2V_LM, "--quiet"]}
    if options.lmplz:
        # Its default reserves 80 % of the memory.
        tools["lmplz"] = [options.lmplz, "-S", "1G"]
    print("| model | program | CPU s | wall s | peak MB | perplexity with / without unknown words | CPU ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, held_out = split(options.text, folder)
        for model, flags in MODELS.items():
            costs: dict[str, list[Cost]] = {tool: [] for tool in tools}
            for _ in range(options.runs):
                for tool, command in tools.items():
                    arpa = folder / f"{tool}.arpa"
                    costs[tool].append(measure([*command, *flags, "--text", str(train), "--arpa", str(arpa)]))
            base = statistics.median(cost.cpu for cost in costs[list(tools)[-1]])
            for tool in tools:
                wall, cpu, megabytes = (statistics.median(column) for column in zip(*costs[tool], strict=True))
                row = f"| {model} | {tool} | {cpu:.2f} | {wall:.2f} | {megabytes:.0f} "
                print(f"{row}| {perplexity(folder / f'{tool}.arpa', held_out)} | {cpu / base:.2f} |", flush=True)
            if model == "order 4":
                read = shutil.copy(folder / "w2v-lm.arpa", folder / "read.arpa")
        print_reading(Path(read))


if __name__ == "__main__":
    main()
