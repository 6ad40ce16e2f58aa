"""What the published commands lose on padding and cropping, by the lengths of a corpus.

    python benchmarks/waste.py FOLDER [FOLDER ...]

The lengths are those of the audio files below the folders, as they are and drawn 28,539 times (as many clips as
train-clean-100 has), each stretched by up to 3 %, one in fifty between 17 and 24.5 seconds long. A third set of lengths
is normal around 12.7 s and more spread than speech corpora are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from w2v.data.audio import audio_info
from w2v.data.batch_sampler import padding_stats, plan_batches

RATE, CLIPS = 16000, 28539
PRETRAINING = {"BASE": (1_400_000, 250_000), "LARGE": (1_200_000, 320_000)}


def report(label: str, sizes: np.ndarray) -> None:
    """Print the shares of one set of lengths."""
    print(f"{label}: {len(sizes)} clips, mean {sizes.mean() / RATE:.1f} s, longest {sizes.max() / RATE:.1f} s")
    plan = plan_batches(sizes, sizes, seed=1, max_tokens=1_280_000, batch_size=None)
    print(f"  fine-tuning: padding {padding_stats(plan.batches, sizes, pad=True).padding:.2%}")
    kept = sizes[sizes >= 32_000]
    for name, (max_tokens, longest) in PRETRAINING.items():
        plan = plan_batches(kept, np.minimum(kept, longest), seed=1, max_tokens=max_tokens, batch_size=None)
        cropped = padding_stats(plan.batches, kept, pad=False, max_size=longest).cropped
        least = 1 - np.minimum(kept, longest).sum() / kept.sum()
        print(f"  pretraining {name}: cropped away {cropped:.2%}, of that by --max-sample-size alone {least:.2%}")


def main() -> None:
    """Measure and print."""
    paths = [path for folder in sys.argv[1:] for path in Path(folder).rglob("*") if path.suffix in (".flac", ".ogg")]
    real = np.array([audio_info(str(path)).frames for path in paths])
    rng = np.random.default_rng(1)
    drawn = (rng.choice(real, CLIPS) * rng.uniform(0.97, 1.03, CLIPS)).astype(np.int64)
    long = rng.random(CLIPS) < 0.02
    drawn[long] = rng.integers(17 * RATE, 49 * RATE // 2, long.sum())
    report("as they are", real)
    report("drawn", drawn)
    report("normal", (np.clip(rng.normal(12.7, 3.8, CLIPS), 1.4, 24.5) * RATE).astype(np.int64))


if __name__ == "__main__":
    main()
