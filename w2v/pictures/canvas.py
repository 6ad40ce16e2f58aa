"""A sheet to draw on, the same on every machine: no display, no LaTeX, none of the user's matplotlib settings.

Needs matplotlib (extra `vis`). Figures are made without pyplot, which keeps a global list of them and looks for a
display; a figure of its own is drawn by Agg and freed like any other object.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
