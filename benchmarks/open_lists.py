"""Time and memory to open the lists of a large data set: a manifest, and the label file beside it.

    python benchmarks/open_lists.py [--clips 10000000] [--labelled 1000000] [--folder FOLDER]

Each is written, then opened in a process of its own. CPU time counts, because the machine may be shared; memory is
the most that the process took beyond what its imports do, and what is kept.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
OPEN = """
import resource, sys, time
from w2v.data.dictionary import Dictionary
from w2v.data.labels import read_labels
from w2v.data.manifest import read_manifest

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

kind, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
before, begin, cpu = peak(), time.perf_counter(), time.process_time()
if kind == "manifest":
    found = read_manifest(path)
    kept = found.names.nbytes + found.offsets.nbytes + found.sizes.nbytes
else:
    found = read_labels(path, count, Dictionary.from_symbols(list("|ETAONIHSRDLUMWCFGYPBVK'XJQZ")))
    kept = found.ids.nbytes + found.offsets.nbytes
seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
assert len(found) == count
print(f"{kind}: {count:,} lines: {cpu:.1f} s of CPU ({seconds:.1f} s), {peak() - before} MB, {kept >> 20} of them stay")
"""


def write_manifest(path: Path, clips: int) -> None:
    """Write names as long as LibriSpeech's."""
    with open(path, "w") as file:
        file.write("/data/librispeech\n")
        for i in range(clips):
            speaker, chapter = i % 2000, i // 100
            file.write(
                f"train-clean-{i % 300}/{speaker}/{chapter}/{speaker}-{chapter}-{i:04d}.flac\t{160_000 + i % 99}\n"
            )


def write_labels(path: Path, clips: int) -> None:
    """Write lines of 60 to 200 letters."""
    rng = random.Random(1)
    lines = [" ".join(rng.choices("|ETAONIHSRDLUMWCFGYPBVK'XJQZ", k=rng.randint(60, 200))) for _ in range(1000)]
    with open(path, "w") as file:
        for i in range(clips):
            file.write(lines[i % 1000] + "\n")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10**7)
    parser.add_argument("--labelled", type=int, default=10**6)
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        manifest, labels = Path(folder, "train.tsv"), Path(folder, "train.ltr")
        write_manifest(manifest, options.clips)
        write_labels(labels, options.labelled)
        for kind, path, count in (("manifest", manifest, options.clips), ("labels", labels, options.labelled)):
            command = [sys.executable, "-c", OPEN, kind, str(path), str(count)]
            subprocess.run(command, check=True, env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
