"""How long `w2v-train --help` takes, compared with `import torch`: medians of interleaved runs.

    python benchmarks/startup.py [--runs 15]

Interleaved, because the machine may be busy with other things for a while; the first run of each is thrown away.
Measured on two busy cores (Python 3.11, torch 2.13, medians of 7): import torch 3.76 s, import w2v 0.06 s,
w2v-train --help 3.73 s (0.99 x import torch), w2v-infer --help 1.16 x, w2v-manifest --help 0.95 x.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import torch": ["-c", "import torch"],
    "import w2v": ["-c", "import w2v"],
    "w2v-train --help": ["-m", "w2v_cli.train", "--help"],
    "w2v-infer --help": ["-m", "w2v_cli.infer", "--help"],
    "w2v-manifest --help": ["-m", "w2v_cli.manifest", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Return the wall time of one run."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environ)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    torch = statistics.median(times["import torch"][1:])
    print(f"{'':22}median  fastest  x import torch")
    for name, taken in times.items():
        median = statistics.median(taken[1:])
        print(f"{name:20}{median:7.3f} s{min(taken[1:]):7.3f} s{median / torch:10.2f}")


if __name__ == "__main__":
    main()
