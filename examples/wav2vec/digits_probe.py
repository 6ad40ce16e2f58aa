"""Do frozen features carry what was said? A linear classifier of isolated digits, tried on unseen speakers.

Each clip becomes one vector, the mean of its frames over time. For every speaker in turn, a logistic regression is
fitted on the others and tried on this one; the strength of its weight decay is chosen by leaving out one of the
others. The same is done with log-mel energies, which is what the features have to beat: 80 bands up to 8 kHz; and, for
recordings that end at 4 kHz, 40 bands up to there above a higher floor, less the clip's mean level.

    python examples/wav2vec/digits_probe.py DIGITS --features w2v=FEATURES --features vq=OTHER_FEATURES

DIGITS holds transcripts.tsv (path TAB WORD) and meta.tsv (path TAB speaker TAB ...); a folder of features is what
`w2v-featurize -i DIGITS -o FEATURES` writes.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from w2v.data.audio import read_audio
from w2v.inference.feature_file import SUFFIXES, read_features

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

Array = npt.NDArray[np.float64]


def main() -> int:
    """Print accuracies, speaker by speaker, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("digits", type=Path)
    parser.add_argument("--features", action="append", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()

    names, words, speakers = read_clips(arguments.digits)
    print(f"{len(names)} clips, {len(set(words))} words, {len(set(speakers))} speakers")
    wide = [log_mel(arguments.digits / name, 80, 8000, floor=1e-6).mean(axis=0) for name in names]
    narrow = [log_mel(arguments.digits / name, 40, 4000, floor=1e-2).mean(axis=0) for name in names]
    tables = {"log-mel": np.stack(wide), "log-mel, 4 kHz": np.stack([mean - mean.mean() for mean in narrow])}
    for item in arguments.features:
        name, _, folder = item.partition("=")
        tables[name] = np.stack([mean_features(Path(folder), clip) for clip in names])

    classes = sorted(set(words))
    targets = np.array([classes.index(word) for word in words])
    persons = np.array(speakers)
    print("features\tchannels\t" + "\t".join(sorted(set(speakers))) + "\tmean")
    for name, table in tables.items():
        accuracies = [unseen_accuracy(table, targets, persons, who) for who in sorted(set(speakers))]
        shown = "\t".join(f"{100 * accuracy:.1f}" for accuracy in [*accuracies, float(np.mean(accuracies))])
        print(f"{name}\t{table.shape[1]}\t{shown}", flush=True)
    return 0


def read_clips(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the path, the word and the speaker of each clip."""
    words = {row[0]: row[1] for row in read_table(folder / "transcripts.tsv")}
    speakers = {row[0]: row[1] for row in read_table(folder / "meta.tsv")}
    names = sorted(words)
    return names, [words[name] for name in names], [speakers[name] for name in names]


def read_table(path: Path) -> list[list[str]]:
    """Return the rows of a tab-separated file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def mean_features(folder: Path, name: str) -> Array:
    """Return the mean over time of a clip's features."""
    for suffix in SUFFIXES.values():
        path = (folder / name).with_suffix(suffix)
        if path.is_file():
            return read_features(path).mean(axis=0, dtype=np.float64)
    raise SystemExit(f"{folder}: no features of {name}")


def log_mel(path: Path, bands: int, top: float, *, floor: float) -> Array:
    """Return (T, bands) logarithms of mel-band energies up to `top` Hz, plus `floor`: 25 ms windows every 10 ms."""
    samples = read_audio(str(path), SAMPLE_RATE).astype(np.float64)
    samples = np.pad(samples, (0, max(WINDOW - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), n=512)) ** 2
    return np.log(power @ mel_filters(512, bands, top).T + floor)


def mel_filters(size: int, bands: int, top: float) -> Array:
    """Return (bands, size / 2 + 1) triangular filters, evenly spaced on the mel scale up to `top` Hz."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + top / 700), bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def unseen_accuracy(table: Array, targets: npt.NDArray[np.int64], persons: npt.NDArray[np.str_], who: str) -> float:
    """Fit on all speakers but `who`, with the decay that serves one more left-out speaker best; try on `who`."""
    others = [person for person in sorted(set(persons)) if person != who]

    def score(decay: float) -> float:
        return float(
            np.mean(
                [
                    accuracy(table, targets, (persons != who) & (persons != left_out), persons == left_out, decay)
                    for left_out in others
                ]
            )
        )

    best = max(DECAYS, key=score)
    return accuracy(table, targets, persons != who, persons == who, best)


def accuracy(
    table: Array,
    targets: npt.NDArray[np.int64],
    fit: npt.NDArray[np.bool_],
    trial: npt.NDArray[np.bool_],
    decay: float,
) -> float:
    """Return the share of `trial` rows that a logistic regression on `fit` rows gets right."""
    mean, scale = table[fit].mean(axis=0), table[fit].std(axis=0) + 1e-6
    inputs = torch.from_numpy((table - mean) / scale)
    labels = torch.from_numpy(targets)
    weight = torch.zeros(int(labels.max()) + 1, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")
    x, y = inputs[fit], labels[fit]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        guesses = (inputs[trial] @ weight.T + bias).argmax(dim=1)
    return float((guesses == labels[trial]).double().mean())


if __name__ == "__main__":
    sys.exit(main())
