"""Draw the curves of a run of run.py: `curves.csv`, and with matplotlib `curves.png`.

    python examples/digits/plot.py FOLDER

They are read from the logs that `w2v-train --log-format json` writes.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PANELS = (
    ("pretraining: contrastive loss, bits", ("pretrain",), ("train", "valid"), "loss_0"),
    ("pretraining: accuracy among 101", ("pretrain",), ("train", "valid"), "accuracy"),
    ("pretraining: code perplexity", ("pretrain",), ("train",), "code_perplexity"),
    ("fine-tuning: CTC loss, bits per symbol", ("ft20", "ft5", "scratch5"), ("train",), "loss"),
    ("fine-tuning: WER on seen speakers, %", ("ft20", "ft5", "scratch5"), ("digits_valid_seen",), "wer"),
    ("fine-tuning: WER on an unseen speaker, %", ("ft20", "ft5", "scratch5"), ("digits_valid_unseen",), "wer"),
)


class Point(NamedTuple):
    """One value of one curve."""

    run: str
    data: str
    quantity: str
    update: int
    value: float


def main() -> int:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    quantities = {quantity for *_, quantity in PANELS}
    points = [
        point
        for run in ("pretrain", "ft20", "ft5", "scratch5")
        if (folder / f"{run}.log").is_file()
        for point in read_log(folder / f"{run}.log", run)
        if point.quantity in quantities
    ]
    with open(folder / "curves.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Point._fields)
        writer.writerows(points)
    try:
        import matplotlib
    except ImportError:
        print("plot.py: no picture, as there is no matplotlib", file=sys.stderr)
        return 0
    matplotlib.use("Agg")
    draw(points, folder / "curves.png")
    return 0


def read_log(path: Path, run: str) -> Iterator[Point]:
    """Yield the numbers of the lines of training and of validation."""
    for line in path.read_text(encoding="utf-8").splitlines():
        head, _, text = line.partition(" | {")
        tag = head.rpartition(" | ")[2]
        if not text or tag not in ("train_inner", "valid", "digits_valid_seen", "digits_valid_unseen"):
            continue
        values: dict[str, Any] = json.loads("{" + text)
        prefix = "" if tag == "train_inner" else f"{tag}_"
        update = int(values[f"{prefix}num_updates"])
        for name, value in values.items():
            if name.startswith(prefix):
                yield Point(run, tag.replace("train_inner", "train"), name.removeprefix(prefix), update, float(value))


def draw(points: list[Point], path: Path) -> None:
    """Draw one panel per quantity."""
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, 3, figsize=(11, 5.5), dpi=90)
    for axes, (title, runs, sets, quantity) in zip(grid.flat, PANELS, strict=True):
        for run in runs:
            for data in sets:
                chosen = [p for p in points if (p.run, p.data, p.quantity) == (run, data, quantity)]
                label = run if len(runs) > 1 else data
                marker = "." if data != "train" else None
                axes.plot([p.update for p in chosen], [p.value for p in chosen], label=label, marker=marker)
        if quantity == "wer":
            axes.set_ylim(0, 100)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("updates", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
