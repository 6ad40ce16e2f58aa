"""Forced alignment of long recordings: time and memory of ours, ctc-segmentation's and torchaudio's.

    python benchmarks/alignment.py ../shared/golden [--ctc-segmentation PYTHON] [--torchaudio PYTHON] [--three-hours]
    python benchmarks/alignment.py ../shared/golden --digits ../shared/data ../shared/models/digits_ctc.pt

PYTHON is that of an environment of its own: ctc-segmentation 1.7.5 has no wheels and needs a compiler; torchaudio's
wheel needs the CUDA libraries that it is linked to. Emissions are those of an imagined model
(`golden/people/make_inputs.py`): 180,730 frames of 32 symbols and 50,000 labels are an hour, its first 36,000 frames
are 12 minutes. Each run is a process of its own with one thread; CPU seconds, and peak memory above what it was before.
`--digits` instead compares words of real speech with their true boundaries.
Results: `alignment.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# Run by the python of each side: argv[1] is the file of emissions. ctc-segmentation may skip the beginning at no cost,
# which is its default, or (`paid`) not.
BEGIN = """
import json, resource, sys, time
import numpy as np
loaded = np.load(sys.argv[1])
emissions, labels = loaded["emissions"], loaded["labels"]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
END = """
print(json.dumps({"seconds": seconds, "megabytes": after - before, "starts": [int(start) for start in starts]}))
"""
SIDES = {
    "ours": BEGIN
    + """
from w2v.functional.ctc_alignment import forced_align
forced_align(emissions[:100], labels[:20])
before, begin = peak(), time.process_time()
found = forced_align(emissions, labels)
seconds, after, starts = time.process_time() - begin, peak(), found.starts
"""
    + END,
    "ctc-segmentation": BEGIN
    + """
from ctc_segmentation import CtcSegmentationParameters, ctc_segmentation
config = CtcSegmentationParameters(char_list=[chr(97 + i) for i in range(emissions.shape[1])])
config.index_duration = 1.0
config.preamble_transition_cost_zero = len(sys.argv) <= 2
truth = np.array([-1, 0, *labels, 0]).reshape(-1, 1)
before, begin = peak(), time.process_time()
timings, probabilities, states = ctc_segmentation(config, emissions, truth)
seconds, after, starts = time.process_time() - begin, peak(), timings[2:-1]
"""
    + END,
    "torchaudio": BEGIN
    + """
import torch, torchaudio
torch.set_num_threads(1)
align = torchaudio.functional.forced_align
align(torch.from_numpy(emissions[None, :100]), torch.from_numpy(labels[None, :20]), blank=0)
before, begin = peak(), time.process_time()
path, scores = align(torch.from_numpy(emissions[None]), torch.from_numpy(labels[None]), blank=0)
seconds, after = time.process_time() - begin, peak()
path = path[0].numpy()
starts = np.flatnonzero((path != 0) & (path != np.concatenate([[0], path[:-1]])))
"""
    + END,
}


def run(python: str, side: str, file: Path, *options: str) -> dict[str, object] | None:
    """Return seconds, megabytes and first frames of one side; None: it crashed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY) if side == "ours" else ""}
    command = [python, "-c", SIDES[side], str(file), *options]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        reason = f"signal {-ran.returncode}" if ran.returncode < 0 else ran.stderr.strip().splitlines()[-1]
        print(f"{side}: {reason}")
        return None
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def compare_digits(data: Path, model: Path) -> None:
    """Print how far words of joined digits lie from where they were said."""
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/helpers")]
    import numpy as np
    from joined_digits import RATE, join_digits

    import w2v

    joined, loaded = join_digits(data), w2v.load_model(model)
    print(f"{len(joined.samples) / RATE:.0f} s, {len(joined.starts)} words")
    for star in ("none", "lines", "words"):
        words = w2v.align(joined.samples, joined.lines, RATE, model=loaded, star=star).words
        for side in ("start", "end"):
            errors = 1000 * (np.array([getattr(word, side) for word in words]) - getattr(joined, f"{side}s"))
            sizes = np.abs(errors)
            within = [f"{np.mean(sizes <= limit):.0%} within {limit} ms" for limit in (30, 80, 160)]
            print(
                f"  --star {star}, {side}s: {np.median(errors):+.0f} ms in the median; error {np.median(sizes):.0f} ms "
                f"in the median, {np.quantile(sizes, 0.95):.0f} ms at the 95th percentile; {', '.join(within)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--ctc-segmentation", metavar="PYTHON")
    parser.add_argument("--torchaudio", metavar="PYTHON")
    parser.add_argument("--three-hours", action="store_true")
    parser.add_argument("--digits", nargs=2, type=Path, metavar=("DATA", "MODEL"))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.digits:
        compare_digits(*arguments.digits)
        return
    sys.path.insert(0, str(arguments.golden / "people"))
    import numpy as np
    from make_inputs import hour

    emissions, labels, frames = hour()
    is_start = (frames != 0) & (frames != np.concatenate([[0], frames[:-1]]))
    pythons = {
        "ours": sys.executable,
        "ctc-segmentation": arguments.ctc_segmentation,
        "torchaudio": arguments.torchaudio,
    }
    sizes = {"12 minutes": 36_000, "an hour": len(emissions)}
    if arguments.three_hours:
        sizes = {"three hours": 3 * len(emissions)}
        emissions, labels, is_start = np.tile(emissions, (3, 1)), np.tile(labels, 3), np.tile(is_start, 3)
        pythons = {"ours": sys.executable}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in sizes.items():
            file, count = Path(folder) / "emissions.npz", int(is_start[:size].sum())
            np.savez(file, emissions=emissions[:size], labels=labels[:count])
            print(f"{name}: {size} frames, {count} labels")
            for _ in range(arguments.rounds):
                for side, python in pythons.items():
                    for option in [(), ("paid",)] if side == "ctc-segmentation" else [()]:
                        found = run(python, side, file, *option) if python else None
                        if found is None:
                            continue
                        off = np.abs(np.array(found.pop("starts")) - np.flatnonzero(is_start[:size]))
                        figures = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
                        shown = " ".join([side, *option])
                        starts = f"starts off by {off.mean():.2f} frames in the mean, {off.max()} at most"
                        print(f"  {shown}: {figures}; {starts}")


if __name__ == "__main__":
    main()
