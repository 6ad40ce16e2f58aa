"""The output folder of `w2v-visualize`: each picture as a file, its numbers beside it, and both for the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w2v.errors import MissingPackageError
from w2v.files import make_folder, write_atomically
from w2v.pictures.canvas import to_png
from w2v.pictures.report import Image, Sound

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
Rows = Sequence[Sequence[Any]]


class Gallery:
    """Writes pictures and their numbers.

    Args:
        folder: where they go; it is made.

    Raises:
        DataError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder, "--output-dir")

    def add_table(self, name: str, figure: Figure, alt: str, columns: Sequence[str], rows: Rows) -> Image:
        """Write `name.png`, and the numbers it was drawn from as `name.csv`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        return self._add(name, figure, alt, ".csv", text.getvalue().encode("utf-8", "replace"))

    def add_arrays(self, name: str, figure: Figure, alt: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Image:
        """Write `name.png`, and the numbers it was drawn from as `name.npz`."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return self._add(name, figure, alt, ".npz", buffer.getvalue())

    def _add(self, name: str, figure: Figure, alt: str, ending: str, numbers: bytes) -> Image:
        png = to_png(figure)
        return Image(png, alt, self._write(f"{name}.png", png), self._write(f"{name}{ending}", numbers))

    def add_report(self, html: bytes) -> Path:
        """Write `report.html` and return its path."""
        return self.folder / self._write("report.html", html)

    def _write(self, name: str, content: bytes) -> str:
        write_atomically(self.folder / name, content)
        return name


def sound(samples: Floats, sample_rate: int, label: str) -> Sound:
    """Return a stretch of audio for the report: FLAC, which every browser plays, at half the size of a WAV file.

    Args:
        samples: (S,) in [-1, 1]; louder ones are cut off.
        sample_rate: in Hz.
        label: what it is.
    """
    try:
        import soundfile
    except ImportError as e:
        raise MissingPackageError("soundfile", "audio", "sounds in a report") from e
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return Sound(buffer.getvalue(), label)
