"""Frames as points of a plane (PCA, t-SNE), coloured by what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w2v.pictures.canvas import COLOURS, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Classes:
    """A class for each point.

    Attributes:
        what: what the classes are.
        names: of the classes, at most as many as there are colours.
        numbers: (N,) class of each point; -1: another one, or none, drawn in grey.
    """

    what: str
    names: Sequence[str]
    numbers: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Levels:
    """A number for each point.

    Attributes:
        what: what the numbers are.
        values: (N,).
    """

    what: str
    values: Floats


@dataclass(frozen=True)
class Scatter:
    """Points.

    Attributes:
        title: above them.
        points: (N, 2).
        x_label: below them.
        y_label: beside them.
    """

    title: str
    points: Floats
    x_label: str = ""
    y_label: str = ""


def draw_scatters(scatters: Sequence[Scatter], colours: Classes | Levels, *, columns: int = 3) -> Figure:
    """Draw clouds of the same frames side by side, with one legend.

    Args:
        scatters: at least one.
        colours: what is known of the frames.
        columns: most in a row.
    """
    columns = min(columns, len(scatters))
    rows = -(-len(scatters) // columns)
    figure = new_figure(3.2 * columns + 1.5, 3.1 * rows + 0.2)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, scatter in zip(places, scatters):
        image = _draw_points(axes, scatter, colours)
    for axes in places[len(scatters) :]:
        axes.set_axis_off()
    if isinstance(colours, Levels):
        figure.colorbar(image, ax=places, pad=0.02, shrink=0.8, label=colours.what)
    else:
        handles, labels = places[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", title=colours.what, markerscale=2.5)
    return figure


def _draw_points(axes: Any, scatter: Scatter, colours: Classes | Levels) -> Any:
    # Clouds of thousands of points overlap: small ones, half transparent, show where they are dense.
    size = 5 if len(scatter.points) > 300 else 16
    style = {"s": size, "linewidths": 0, "alpha": 0.65, "rasterized": True}
    x, y = scatter.points.T
    image = None
    if isinstance(colours, Levels):
        image = axes.scatter(x, y, c=colours.values, cmap="viridis", **style)
    else:
        others = colours.numbers < 0
        if others.any():
            axes.scatter(x[others], y[others], color="#c8c8c8", label=f"another {colours.what}, or none", **style)
        for number, name in enumerate(colours.names):
            chosen = colours.numbers == number
            if chosen.any():
                colour = COLOURS[number % len(COLOURS)]
                axes.scatter(x[chosen], y[chosen], color=colour, label=shortened(name, 20), **style)
    axes.set(title=scatter.title, xlabel=scatter.x_label, ylabel=scatter.y_label)
    if not scatter.x_label:
        axes.set_xticks([])
        axes.set_yticks([])  # t-SNE's axes mean nothing
    return image
