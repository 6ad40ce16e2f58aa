"""Matrices as colours: cosines of frames, attention of layers, codes over symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w2v.pictures.canvas import new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]


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
    figure = new_figure(max(width * columns, 4.0) + 0.8, height * rows + 0.3)
    if title:
        figure.suptitle(shortened(title, 110), x=0.01, ha="left", fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    places = list(grid.flat)
    for axes, matrix in zip(places, matrices):
        image = _draw_matrix(axes, matrix)
        if not bar_label:
            figure.colorbar(image, ax=axes, pad=0.02)
    if bar_label:
        figure.colorbar(image, ax=places[: len(matrices)], pad=0.02, shrink=0.8, label=bar_label)
    for axes in places[len(matrices) :]:
        axes.set_axis_off()
    return figure


def _draw_matrix(axes: Any, matrix: Matrix) -> Any:
    known = matrix.values[np.isfinite(matrix.values)]
    low, high = matrix.limits or (float(known.min(initial=0.0)), float(known.max(initial=0.0)))
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
        axes.set_xticks(list(places), [shortened(name, 16) for name in names], fontsize=7)
        if max(map(len, names), default=0) > 3:
            axes.tick_params("x", rotation=90)
    if matrix.y_ticks is not None:
        places, names = matrix.y_ticks
        axes.set_yticks(list(places), [shortened(name, 16) for name in names], fontsize=7)
    return image
