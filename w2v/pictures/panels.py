"""Lines and bars over numbers: training curves, growth, shares by layer; one panel per quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w2v.pictures.canvas import COLOURS, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
HEIGHT = 2.6  # of a panel, in inches
WIDEST_GAP = 3.5  # steps of a curve, in medians, beyond which it counts as interrupted


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: what the legend says; empty: it is left out of the legend.
        x: (N,) rising.
        y: (N,); values that are not finite are marked, not dropped.
        colour: place in `COLOURS`.
        is_dashed: a reference, or another data set than the one of the plain curve.
        has_points: whether every value is marked: few and far between, as those of validations are.
    """

    label: str
    x: Floats
    y: Floats
    colour: int = 0
    is_dashed: bool = False
    has_points: bool = False


@dataclass(frozen=True)
class Bars:
    """A bar for each name.

    Attributes:
        label: what the legend says.
        names: below the bars.
        heights: of the bars.
    """

    label: str
    names: Sequence[str]
    heights: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """What is drawn over one pair of axes.

    Attributes:
        title: above it.
        x_label: below it.
        lines: its curves.
        bars: groups of bars, side by side; not together with curves.
        limits: lowest and highest value shown; None: as the values are.
        y_label: beside it.
        level: a value to compare with, drawn as a dotted line, and its name.
    """

    title: str
    x_label: str = ""
    lines: Sequence[Line] = ()
    bars: Sequence[Bars] = ()
    limits: tuple[float | None, float | None] | None = None
    y_label: str = ""
    level: tuple[float, str] | None = None


def draw_panels(panels: Sequence[Panel], *, columns: int = 3, width: float = 3.5) -> Figure:
    """Draw panels from left to right, row by row.

    Args:
        panels: at least one.
        columns: most panels in a row.
        width: of a panel, in inches.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(max(width * columns, 5.0), HEIGHT * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for panel in panels:
        _draw_panel(next(grid), panel)
    for axes in grid:
        axes.set_axis_off()
    return figure


def _draw_panel(axes: Any, panel: Panel) -> None:
    for line in panel.lines:
        draw_line(axes, line)
    for place, bars in enumerate(panel.bars):
        share = 0.8 / len(panel.bars)
        middle = np.arange(len(bars.heights)) + (place - (len(panel.bars) - 1) / 2) * share
        axes.bar(middle, bars.heights, share, label=bars.label, color=COLOURS[place % len(COLOURS)])
        axes.set_xticks(range(len(bars.names)), [shortened(name, 24) for name in bars.names])
    if panel.level is not None:
        value, name = panel.level
        axes.axhline(value, color="black", linestyle=":", linewidth=1, label=name)
    if panel.bars:
        axes.margins(y=0.3)  # room for the legend
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(visible=True, axis="y" if panel.bars else "both")
    axes.set_axisbelow(True)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    if any(label for label in axes.get_legend_handles_labels()[1]):
        axes.legend(loc="best")


def draw_line(axes: Any, line: Line) -> None:
    """Draw a curve: broken and dotted where it was interrupted, with a cross on the axis where it is not finite."""
    colour = COLOURS[line.colour % len(COLOURS)]
    shown = np.isfinite(line.y)
    gaps = _gaps(line.x)
    style = {"color": colour, "linestyle": "--" if line.is_dashed else "-", "linewidth": 1.4}
    # Few points make no line; without a mark they would not be seen.
    mark = "." if line.has_points or shown.sum() < 3 else None
    label = shortened(line.label, 40)
    for piece in np.split(np.arange(len(line.x)), gaps):
        values = np.where(shown[piece], line.y[piece], np.nan)
        axes.plot(line.x[piece], values, label=label or None, marker=mark, **style)
        label = ""  # the legend names a curve once
    for after in gaps:
        ends = np.array([after - 1, after])
        if shown[ends].all():
            axes.plot(line.x[ends], line.y[ends], color=colour, linestyle=":", linewidth=1)
    if not shown.all():
        places = line.x[~shown]
        name = f"{label or shortened(line.label, 40)}: not finite"
        bottom = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        axes.plot(places, np.full(len(places), 0.02), "x", color=colour, markersize=6, label=name, **bottom)


def _gaps(x: Floats) -> list[int]:
    """Return the places at which a new piece of a curve begins."""
    steps = np.diff(x)
    if len(steps) < 2:
        return []
    starts: list[int] = (np.flatnonzero(steps > WIDEST_GAP * np.median(steps)) + 1).tolist()
    return starts
