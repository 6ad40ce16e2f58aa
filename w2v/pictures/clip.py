"""A clip on one time axis: waveform, spectrogram, words, and whatever a model makes of it frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w2v.functional.spectrogram import spectrogram
from w2v.pictures.canvas import Margins, add_bar, add_title, new_grid, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
MOST_POINTS = 2_000  # of a waveform: two per pixel
FLOOR = 70.0  # decibels below the loudest band that a spectrogram shows


@dataclass(frozen=True)
class Span:
    """A word or a symbol.

    Attributes:
        text: what it is.
        start: in seconds.
        end: in seconds.
        confidence: in [0, 1]; None: unknown.
    """

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True)
class Frames:
    """Values of a model over time.

    Attributes:
        title: above them.
        values: (R, T) rows over frames.
        start: seconds at which the first frame begins.
        step: seconds per frame.
        row_label: what the rows are.
        rows: names of the rows, if few.
        is_signed: colours are symmetric around zero.
        limits: values of the lowest and the highest colour; None: nearly all of the values.
        path: (T,) row of the best path in each frame, drawn over the values; -1: none.
    """

    title: str
    values: Floats
    start: float
    step: float
    row_label: str = ""
    rows: Sequence[str] = ()
    is_signed: bool = False
    limits: tuple[float, float] | None = None
    path: npt.NDArray[np.int64] | None = None


def draw_clip(
    title: str,
    samples: Floats,
    sample_rate: int,
    *,
    words: Sequence[Span] = (),
    frames: Sequence[Frames] = (),
    first: float = 0.0,
) -> Figure:
    """Draw a clip, or a stretch of a longer recording; everything shares one time axis.

    Args:
        title: above the picture.
        samples: (S,) of the stretch.
        sample_rate: in Hz.
        words: words that were said, in the recording's time; they are written over the waveform.
        frames: what a model makes of the stretch, in the recording's time, one panel each.
        first: seconds at which the stretch begins in the recording.
    """
    heights = [1.1, 1.3, *(_height(item) for item in frames)]
    seconds = max(len(samples) / sample_rate, 1e-3)
    width = float(np.clip(1.5 + 1.1 * seconds, 6.5, 12.5))
    figure, grid = new_grid(heights, [width], Margins(right=0.95, top=1.05 if words else 0.4))
    column = [axes for (axes,) in grid]
    add_title(figure, shortened(title, 110))
    _draw_waveform(column[0], samples, sample_rate, first)
    if words:
        _draw_words(column[0], words, width / seconds)
    add_bar(figure, column[1], _draw_spectrum(column[1], samples, sample_rate, first), "dB")
    for axes, item in zip(column[2:], frames, strict=True):
        add_bar(figure, axes, _draw_frames(axes, item))
    for axes in column:
        axes.set_xlim(first, first + seconds)
        axes.tick_params(labelbottom=axes is column[-1])
    column[-1].set_xlabel("seconds")
    return figure


def _height(frames: Frames) -> float:
    return float(np.clip(0.15 * len(frames.rows), 1.0, 5.0)) if frames.rows else 1.3


def _draw_waveform(axes: Any, samples: Floats, sample_rate: int, first: float) -> None:
    """Draw lowest and highest sample of each column of pixels: peaks are never lost, however long the clip."""
    step = max(len(samples) // MOST_POINTS, 1)
    columns = len(samples) // step
    blocks = samples[: columns * step].reshape(columns, step)
    times = first + (np.arange(columns) + 0.5) * step / sample_rate
    if columns:
        axes.fill_between(times, blocks.min(axis=1), blocks.max(axis=1), color="#555555", linewidth=0.6)
    loudest = float(np.abs(samples).max(initial=0.0)) or 1.0
    axes.set_ylim(-1.1 * loudest, 1.1 * loudest)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_ylabel("samples")


def _draw_words(axes: Any, words: Sequence[Span], inches_per_second: float) -> None:
    """Write each word over its time, on as many rows as keep neighbours apart; its colour is its confidence."""
    import matplotlib

    colours = matplotlib.colormaps["RdYlGn"]
    place = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    row_ends = [-np.inf] * 3
    for word in words:
        colour = "#9ecae1" if word.confidence is None else colours(float(np.clip(word.confidence, 0, 1)))
        axes.axvspan(word.start, word.end, color=colour, alpha=0.45, linewidth=0)
        middle = (word.start + word.end) / 2
        text = shortened(word.text, 24)
        if word.confidence is not None:
            text += f"\n{word.confidence:.2f}"
        half = max(map(len, text.split("\n"))) * 0.036 / inches_per_second
        # A row whose last word has ended; where all are taken, the one that ended first.
        row = next((r for r, end in enumerate(row_ends) if end <= middle - half), int(np.argmin(row_ends)))
        row_ends[row] = middle + half
        axes.text(middle, 1.03 + 0.22 * row, text, ha="center", va="bottom", fontsize=7, linespacing=0.95, **place)


def _draw_spectrum(axes: Any, samples: Floats, sample_rate: int, first: float) -> Any:
    levels = spectrogram(samples, sample_rate)
    loudest = float(levels.decibels.max(initial=-100.0))
    columns, hop = levels.decibels.shape[1], levels.hop / sample_rate
    left = first - hop / 2  # column t is centred at t hops
    image = axes.imshow(
        levels.decibels,
        origin="lower",
        cmap="magma",
        vmin=loudest - FLOOR,
        vmax=loudest,
        extent=(left, left + columns * hop, 0, levels.highest / 1000),
    )
    axes.set_ylabel("kHz")
    axes.set_title("spectrogram")
    return image


def _draw_frames(axes: Any, frames: Frames) -> Any:
    low, high = frames.limits or _nearly_all(frames.values, is_signed=frames.is_signed)
    rows, columns = frames.values.shape
    end = frames.start + columns * frames.step
    image = axes.imshow(
        frames.values,
        origin="upper" if frames.rows else "lower",
        cmap="RdBu_r" if frames.is_signed else "viridis",
        vmin=low,
        vmax=high,
        extent=(frames.start, end, rows, 0) if frames.rows else (frames.start, end, 0, rows),
    )
    if frames.rows:
        axes.set_yticks(np.arange(rows) + 0.5, [shortened(name, 12) for name in frames.rows], fontsize=7)
    if frames.path is not None:
        edges = frames.start + frames.step * np.arange(columns + 1)
        path = np.where(frames.path >= 0, frames.path + 0.5, np.nan)
        axes.stairs(path, edges, baseline=None, color="white", linewidth=1.2)
    axes.set_ylabel(frames.row_label)
    axes.set_title(frames.title)
    return image


def _nearly_all(values: Floats, *, is_signed: bool) -> tuple[float, float]:
    """Return limits that hold 98 % of the values: one channel far out would leave the others one colour."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    if is_signed:
        most = float(np.quantile(np.abs(known), 0.98)) or 1.0
        return -most, most
    low, high = (float(q) for q in np.quantile(known, (0.01, 0.99)))
    return low, high if high > low else low + 1.0


@dataclass(frozen=True)
class Snippet:
    """A short stretch of audio.

    Attributes:
        title: above it.
        samples: (S,).
    """

    title: str
    samples: Floats


def draw_snippets(rows: Sequence[Sequence[Snippet]], sample_rate: int, heading: Sequence[str]) -> Figure:
    """Draw the spectrograms of short stretches, row by row.

    Args:
        rows: at least one, of equal lengths.
        sample_rate: in Hz.
        heading: names of the columns.
    """
    columns = len(rows[0])
    margins = Margins(left=0.1, right=0.1, bottom=0.1, top=0.4, across=0.1, down=0.25)
    figure, grid = new_grid([1.0] * len(rows), [1.65] * columns, margins)
    for place, (line, row) in enumerate(zip(grid, rows, strict=True)):
        for column, (axes, snippet) in enumerate(zip(line, row, strict=True)):
            title = shortened(snippet.title, 28)
            axes.set_title(f"{heading[column]}\n{title}" if place == 0 else title, fontsize=7)
            axes.set_xticks([])
            axes.set_yticks([])
            if len(snippet.samples):
                levels = spectrogram(snippet.samples, sample_rate).decibels
                loudest = float(levels.max())
                axes.imshow(levels, origin="lower", cmap="magma", vmin=loudest - FLOOR, vmax=loudest)
                axes.axvline((levels.shape[1] - 1) / 2, color="white", linewidth=0.6, alpha=0.7)
    return figure
