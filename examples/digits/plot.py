"""Draw the curves of a run of run.py: `curves.csv`, and with matplotlib `curves.png`.

    python examples/digits/plot.py FOLDER

They are read from the logs that `w2v-train --log-format json` writes. `w2v-visualize curves` draws all that they hold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from w2v.errors import MissingPackageError
from w2v.pictures.canvas import drawing_style, to_png
from w2v.pictures.panels import Panel, draw_panels
from w2v.training.curves import Point, read_run, write_points
from w2v_cli.visualization.curves import curve_lines

RUNS = ("pretrain", "ft20", "ft5", "scratch5")
PANELS = (
    ("pretraining: contrastive loss, bits", RUNS[:1], ("train", "valid"), "loss_0"),
    ("pretraining: accuracy among 101", RUNS[:1], ("train", "valid"), "accuracy"),
    ("pretraining: code perplexity", RUNS[:1], ("train",), "code_perplexity"),
    ("fine-tuning: CTC loss, bits per symbol", RUNS[1:], ("train",), "loss"),
    ("fine-tuning: WER on seen speakers, %", RUNS[1:], ("digits_valid_seen",), "wer"),
    ("fine-tuning: WER on an unseen speaker, %", RUNS[1:], ("digits_valid_unseen",), "wer"),
)


def main() -> int:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    quantities = {quantity for *_, quantity in PANELS}
    points = [
        point
        for run in RUNS
        if (folder / f"{run}.log").is_file()
        for point in read_run(folder / f"{run}.log", run)
        if point.quantity in quantities
    ]
    write_points(folder / "curves.csv", points)
    try:
        draw(points, folder / "curves.png")
    except MissingPackageError as e:
        print(f"plot.py: no picture: {e}", file=sys.stderr)
    return 0


def draw(points: list[Point], path: Path) -> None:
    """Draw one panel per quantity."""
    panels = []
    for title, runs, sets, quantity in PANELS:
        chosen = [point for point in points if point.run in runs and point.data in sets]
        limits = (0, 100) if quantity == "wer" else None
        panels.append(Panel(title, "updates", curve_lines(chosen, quantity), limits=limits))
    with drawing_style():
        path.write_bytes(to_png(draw_panels(panels)))


if __name__ == "__main__":
    sys.exit(main())
