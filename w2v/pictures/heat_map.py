"""Matrices as colours: cosines of frames, attention of layers, codes over symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w2v.pictures.canvas import Margins, add_bar, add_title, new_grid, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
LONGEST_NAME = 16


@dataclass(frozen=True)
class Matrix:
    """A matrix and what it stands for.

    Attributes:
        title: above it.
        values: (R, C); row 0 is drawn at the top.
        limits: values of the lowest and the highest colour; None: those of the values.
        is_signed: colours are symmetric around zero.
        extent: values at the left, right, bottom and top edges; None: numbers of columns and rows.
        x_label: below it.
        y_label: beside it.
        x_ticks: places and names below it.
        y_ticks: places and names beside it.
    """

    title: str
    values: Floats
    limits: tuple[float, float] | None = None
    is_signed: bool = False
    extent: tuple[float, float, float, float] | None = None
    x_label: str = ""
    y_label: str = ""
    x_ticks: tuple[Sequence[float], Sequence[str]] | None = None
    y_ticks: tuple[Sequence[float], Sequence[str]] | None = None


def draw_matrices(
    matrices: Sequence[Matrix], *, title: str = "", columns: int = 4, width: float = 2.6, height: float = 2.4,
    bar_label: str = "",
) -> Figure:  # fmt: skip
    """Draw matrices from left to right, row by row.

    Args:
        matrices: at least one.
        title: above all.
        columns: most in a row.
        width: of each, in inches.
        height: of each, in inches.
        bar_label: what the colours are; the matrices must then share limits, and one bar serves all.
    """
    columns = min(columns, len(matrices))
    rows = -(-len(matrices) // columns)
    # Names beside and below the axes take as much room as their longest one.
    beside, below = (
        max((len(name) for ticks in every if ticks for name in ticks[1]), default=0)
        for every in ([matrix.y_ticks for matrix in matrices], [matrix.x_ticks for matrix in matrices])
    )
    left = 0.4 + 0.065 * min(max(beside, 4), LONGEST_NAME)
    down = 0.25 + (0.065 * min(below, LONGEST_NAME) if below > 3 else 0.2) + 0.2 * any(m.x_label for m in matrices)
    each = 0.0 if bar_label else 0.7
    margins = Margins(left, each or 0.95, down + 0.1, 0.6 if title else 0.3, max(left - 0.1, 0.3) + each, down + 0.2)
    figure, grid = new_grid([height] * rows, [width] * columns, margins)
    if title:
        add_title(figure, shortened(title, 110))
    places = [axes for line in grid for axes in line]
    for axes, matrix in zip(places, matrices):
        image = _draw_matrix(axes, matrix)
        if not bar_label:
            add_bar(figure, axes, image)
    if bar_label:
        add_bar(figure, places[columns - 1], image, bar_label)
    for axes in places[len(matrices) :]:
        axes.set_axis_off()
    return figure


def _draw_matrix(axes: Any, matrix: Matrix) -> Any:
    known = matrix.values[np.isfinite(matrix.values)]
    low, high = matrix.limits or ((float(known.min()), float(known.max())) if len(known) else (0.0, 1.0))
    image = axes.imshow(
        matrix.values,
        cmap="RdBu_r" if matrix.is_signed else "viridis",
        vmin=low,
        vmax=high if high > low else low + 1.0,
        extent=matrix.extent,
    )
    axes.set_title(matrix.title, fontsize=9)
    axes.set_xlabel(matrix.x_label)
    axes.set_ylabel(matrix.y_label)
    if matrix.x_ticks is not None:
        places, names = matrix.x_ticks
        axes.set_xticks(list(places), [shortened(name, LONGEST_NAME) for name in names], fontsize=7)
        if max(map(len, names), default=0) > 3:
            axes.tick_params("x", rotation=90)
    if matrix.y_ticks is not None:
        places, names = matrix.y_ticks
        axes.set_yticks(list(places), [shortened(name, LONGEST_NAME) for name in names], fontsize=7)
    return image
