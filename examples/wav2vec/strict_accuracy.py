"""How often does a model pick the true future frame, when a tie with a negative counts as a mistake?

The accuracy in the logs counts the true frame as found where no negative is better, as the original does. Quantised
frames are often equal, so a model with few codes in use gets much of it for nothing; here ties are counted apart.
With K negatives, chance is at most 1 / (1 + K).

    python examples/wav2vec/strict_accuracy.py DATA/valid.tsv CHECKPOINT ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from w2v.data.audio import read_audio
from w2v.data.manifest import read_manifest
from w2v.inference.load import load_model

SECONDS = 2
TOLERANCE = 1e-4  # equal frames have equal logits but for rounding


def main() -> int:
    """Print a line per checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    arguments = parser.parse_args()
    clips = read_manifest(arguments.manifest)
    for path in arguments.checkpoints:
        loaded = load_model(path)
        rate = loaded.task.config.sample_rate
        logits = []
        with torch.no_grad():
            for row in range(len(clips)):
                source = torch.from_numpy(read_audio(clips.path(row), rate)[: SECONDS * rate])
                logits.append(loaded.model(source[None], None, row).logits)
        found, tied, total = count(torch.cat(logits))
        print(f"{path}: found {found / total:.1%}, tied {tied / total:.1%}, of {total} predictions")
    return 0


def count(logits: torch.Tensor) -> tuple[int, int, int]:
    """Return how many positives, in column 0, beat all negatives, how many tie with the best one, and all."""
    lead = logits[:, 0] - logits[:, 1:].max(dim=1).values
    return int((lead > TOLERANCE).sum()), int((lead.abs() <= TOLERANCE).sum()), len(logits)


if __name__ == "__main__":
    sys.exit(main())
