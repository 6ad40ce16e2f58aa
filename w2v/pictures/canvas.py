"""A sheet to draw on, the same on every machine: no display, no LaTeX, none of the user's matplotlib settings.

Needs matplotlib (extra `vis`). Figures are made without pyplot, which keeps a global list of them and looks for a
display; a figure of its own is drawn by Agg and freed like any other object.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from w2v.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F", "#B8B800", "#6A3D9A")
"""Colours of lines and classes, told apart by most colour-blind people (Okabe and Ito 2008, with four more)."""

DPI = 100  # 1,000 pixels fill a page; the pictures of a report of ten clips stay below its 8 MB

_SETTINGS: dict[str, Any] = {
    "text.usetex": False,
    "text.parse_math": False,  # a `$` in a file name is a dollar
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "image.interpolation": "nearest",
    "image.aspect": "auto",
    "figure.facecolor": "white",
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw with this project's settings; the caller's own are back afterwards.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as e:
        raise MissingPackageError("matplotlib", "vis", "drawing") from e
    with warnings.catch_warnings(), matplotlib.rc_context():
        # A font without a script's letters draws boxes and warns; a picture is worth having without them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches; call it, and draw, within `drawing_style`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


@dataclass(frozen=True)
class Margins:
    """Room around and between axes, in inches."""

    left: float = 0.7
    right: float = 0.2
    bottom: float = 0.5
    top: float = 0.35
    across: float = 0.5
    down: float = 0.4


def new_grid(heights: Sequence[float], widths: Sequence[float], margins: Margins) -> tuple[Figure, list[list[Any]]]:
    """Return a figure with axes of given sizes, row by row.

    Matplotlib's own layouts measure every label twice, which takes longer than drawing a picture; here all sizes are
    known beforehand.

    Args:
        heights: of the rows, from the top, in inches.
        widths: of the columns, in inches.
        margins: room for labels.
    """
    from matplotlib.figure import Figure

    width = margins.left + sum(widths) + margins.across * (len(widths) - 1) + margins.right
    height = margins.top + sum(heights) + margins.down * (len(heights) - 1) + margins.bottom
    figure = Figure(figsize=(width, height), dpi=DPI)
    grid = []
    top = height - margins.top
    for row in heights:
        left, line = margins.left, []
        for column in widths:
            line.append(figure.add_axes((left / width, (top - row) / height, column / width, row / height)))
            left += column + margins.across
        top -= row + margins.down
        grid.append(line)
    return figure, grid


def add_title(figure: Figure, title: str) -> None:
    """Write a title into the upper left corner of a figure."""
    figure.text(0.1 / figure.get_figwidth(), 1 - 0.08 / figure.get_figheight(), title, fontsize=10, va="top")


def add_bar(figure: Figure, axes: Any, image: Any, label: str = "") -> None:
    """Draw the bar of an image's colours to the right of its axes, which need 0.8 inches there."""
    place, inch = axes.get_position(), 1 / figure.get_figwidth()
    bar = figure.add_axes((place.x1 + 0.1 * inch, place.y0, 0.1 * inch, place.height))
    figure.colorbar(image, cax=bar, label=label)


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file of at most 256 colours: half the size, and no difference to the eye."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once; `savefig` draws twice
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, format="png")
    return buffer.getvalue()


def printable(text: str) -> str:
    """Return a text that any font engine and any UTF-8 file takes: no control characters, no halves of characters."""
    decoded = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in decoded)


def shortened(text: str, width: int) -> str:
    """Return a printable text of at most `width` characters; its end, which names the file, is kept."""
    text = printable(text)
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
