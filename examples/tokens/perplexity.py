"""How well can a hidden code be told? Perplexity of a masked model, and of counts of pairs and triples of codes.

    python examples/tokens/perplexity.py TOKENS/train.src TOKENS/valid.src [CHECKPOINT ...]

Lines are cut into pieces of 60 codes. The same codes are asked of all: every twentieth of each piece. The masked model
sees all others, and so does `both neighbours`, which knows the code before and the code after; `pairs` knows the code
before alone. Counts are interpolated with those of less context; the weight is the best one on the codes asked for,
which favours the counts.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from w2v.inference.load import load_model

STEP = 20
LONGEST = 60  # codes of a piece, as far as the positions of a model reach that was trained on blocks of 64
WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def main() -> int:
    """Print a line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    arguments = parser.parse_args()
    found = count_perplexities(arguments.train, arguments.valid)
    found |= {str(path): masked_perplexity(path, arguments.valid) for path in arguments.checkpoints}
    for name, value in found.items():
        print(f"{name}\t{value:.2f}")
    return 0


def read_pieces(path: Path) -> list[list[str]]:
    """Return the codes of each line, long lines in pieces."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line[start : start + LONGEST] for line in lines for start in range(0, len(line), LONGEST)]


def asked(line: Sequence[str]) -> range:
    """Return the places of a piece that are asked for."""
    return range(STEP // 2, len(line) - 1, STEP)


def count_perplexities(train: Path, valid: Path) -> dict[str, float]:
    """Return the perplexities of counts of single codes, pairs, and codes between two neighbours."""
    singles: Counter[str] = Counter()
    firsts: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    triples: Counter[tuple[str, str, str]] = Counter()
    around: Counter[tuple[str, str]] = Counter()
    for line in read_pieces(train):
        singles.update(line)
        firsts.update(line[:-1])  # the last code of a piece is followed by none
        pairs.update(itertools.pairwise(line))
        triples.update(zip(line, line[1:], line[2:]))
        around.update(zip(line, line[2:]))
    total, size = sum(singles.values()), len(singles) + 1
    places = [(line[i - 1], line[i], line[i + 1]) for line in read_pieces(valid) for i in asked(line)]

    def single(code: str) -> float:
        return (singles[code] + 1) / (total + size)

    def pair(before: str, code: str, weight: float) -> float:
        return (pairs[before, code] + weight * single(code)) / (firsts[before] + weight)

    def between(before: str, code: str, after: str, weight: float, inner: float) -> float:
        return (triples[before, code, after] + weight * pair(before, code, inner)) / (around[before, after] + weight)

    inner = min(WEIGHTS, key=lambda w: perplexity(pair(a, b, w) for a, b, _ in places))
    outer = min(WEIGHTS, key=lambda w: perplexity(between(a, b, c, w, inner) for a, b, c in places))
    return {
        "perplexity, single codes": perplexity(single(code) for _, code, _ in places),
        "perplexity, pairs": perplexity(pair(a, b, inner) for a, b, _ in places),
        "perplexity, both neighbours": perplexity(between(a, b, c, outer, inner) for a, b, c in places),
    }


def perplexity(chances: Iterator[float]) -> float:
    """Return the perplexity of what came with these chances."""
    logs = [math.log(chance) for chance in chances]
    return math.exp(-sum(logs) / len(logs))


@torch.no_grad()
def masked_perplexity(checkpoint: Path, valid: Path) -> float:
    """Return the perplexity of a masked model on the codes asked for, which are hidden piece by piece."""
    loaded: Any = load_model(checkpoint)
    model, dictionary = loaded.model, loaded.task.dictionary
    logs = []
    for line in read_pieces(valid):
        places = torch.tensor(list(asked(line)), dtype=torch.int64) + 1  # after <s>
        if not len(places):
            continue
        ids = torch.tensor([dictionary.bos, *dictionary.encode(" ".join(line)), dictionary.eos])
        hidden = ids.clone()
        hidden[places] = len(dictionary) - 1
        contexts, _ = model.encode(hidden[None], torch.tensor([len(ids)]))
        logs.append(model.encoder.log_likelihood(contexts[0, places], ids[places]))
    return float(torch.cat(logs).mean().neg().exp())


if __name__ == "__main__":
    sys.exit(main())
