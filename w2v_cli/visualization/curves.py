"""Training curves: of the run that made a model, or of several runs in one picture (`w2v-visualize curves`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from w2v.pictures.panels import Line, Panel, draw_panels
from w2v.pictures.report import Image
from w2v.training.curves import TRAIN, Point
from w2v_cli.visualization.gallery import Gallery

# What is drawn of all that a log holds, in this order, and what it is called.
QUANTITIES = {
    "loss": "loss, bits",
    "loss_0": "loss of the prediction alone, bits",
    "accuracy": "accuracy among the negatives",
    "wer": "word error rate, %",
    "uer": "symbol error rate, %",
    "ppl": "perplexity",
    "code_perplexity": "perplexity of the codes, all groups",
    "prob_perplexity": "perplexity of the codes' probabilities",
    "temp": "Gumbel temperature",
    "gnorm": "gradient norm",
    "lr": "learning rate",
    "loss_scale": "loss scale (fp16)",
}


def curve_image(
    gallery: Gallery, points: Sequence[Point], references: Sequence[str], quantities: Sequence[str]
) -> Image:
    """Draw curves, one panel per quantity, all runs over each other.

    Args:
        gallery: where the picture goes.
        points: of all runs.
        references: names of those among them that are references: dashed.
        quantities: what is drawn; empty: all of `QUANTITIES` that there are.
    """
    there = {point.quantity for point in points}
    chosen = [quantity for quantity in quantities or QUANTITIES if quantity in there]
    panels = [
        Panel(QUANTITIES.get(quantity, quantity), "updates", curve_lines(points, quantity, references))
        for quantity in chosen
    ]
    runs = list(dict.fromkeys(point.run for point in points))
    alt = f"Training curves of {', '.join(runs)}: {', '.join(chosen)}."
    return gallery.add_table("curves", draw_panels(panels), alt, Point._fields, points)


def curve_lines(points: Sequence[Point], quantity: str, references: Sequence[str] = ()) -> list[Line]:
    """Return the curves of one quantity: a colour for each run, or for each data set where there is one run."""
    runs = list(dict.fromkeys(point.run for point in points))
    named = dict.fromkeys(runs, quantity)
    if quantity == "loss_0":
        # Without penalties, the whole loss is that of the prediction.
        parted, contrastive = (
            {point.run for point in points if point.quantity == name} for name in ("loss_0", "accuracy")
        )
        named |= dict.fromkeys(contrastive - parted, "loss")
    series: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        if point.quantity == named[point.run]:
            series.setdefault((point.run, point.data), []).append(point)
    sets = list(dict.fromkeys(data for _, data in series))
    lines = []
    for (run, data), found in series.items():
        label = ", ".join(part for part, many in ((run, len(runs) > 1), (data, len(sets) > 1)) if many) or run
        lines.append(
            Line(
                label,
                np.array([point.update for point in found], dtype=float),
                np.array([point.value for point in found]),
                colour=runs.index(run) if len(runs) > 1 else sets.index(data),
                is_dashed=run in references,
                has_points=data != TRAIN,
            )
        )
    return lines
