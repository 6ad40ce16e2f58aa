"""Label files: line i belongs to clip i of the manifest.

All ids live in one flat array, as the names of a manifest do. What turns a transcript into a label line is in the
program `w2v-labels`; what turns ids back into words is in `dictionary` and `post_process`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2v.data.dictionary import Dictionary
from w2v.data.text_file import read_lines
from w2v.errors import DataError


@dataclass(frozen=True)
class Labels:
    """Label ids of all clips.

    Attributes:
        ids: (total,) int32 ids of all clips, one after the other.
        offsets: (N + 1,) int64; clip i has `ids[offsets[i]:offsets[i + 1]]`.
        pad: id that fills the rows of a batch up to the longest.
        unknown: symbol -> how often it occurs, for symbols that the dictionary lacks. The original maps them to
            `<unk>` in silence; here the caller can say so (`unknown_warning`).
        source: the file, for messages.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    pad: int = Dictionary.pad
    unknown: dict[str, int] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[np.int32]:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def num_unknown(self) -> int:
        """Number of symbols that became `<unk>`."""
        return sum(self.unknown.values())

    def unknown_warning(self) -> str | None:
        """Return one line that names the symbols which the dictionary lacks, or None where it has them all."""
        if not self.unknown:
            return None
        common = sorted(self.unknown, key=lambda symbol: (-self.unknown[symbol], symbol))
        shown = ", ".join(f"{symbol!r} ({self.unknown[symbol]})" for symbol in common[:5])
        more = f" and {len(common) - 5} more" if len(common) > 5 else ""
        return (
            f"{self.source}: {self.num_unknown} of {len(self.ids)} symbols are not in the dictionary "
            f"and become <unk>: {shown}{more}"
        )

    def take(self, rows: npt.NDArray[np.int64]) -> Labels:
        """Return the labels of some clips, in the order of `rows`."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return replace(self, ids=self.ids[places], offsets=offsets)


def read_labels(path: str | Path, num_clips: int, dictionary: Dictionary) -> Labels:
    """Read a label file: symbols separated by spaces, one line per clip of the manifest.

    Args:
        path: the file, such as `DATA/train.ltr`.
        num_clips: lines that the manifest has, before any clip is dropped.
        dictionary: gives the ids; a symbol that it lacks becomes `<unk>` and is counted.

    Raises:
        DataError: the file cannot be read, has another number of lines, or a line without symbols.
    """
    lines = read_lines(path, "label file")
    if len(lines) != num_clips:
        raise DataError(f"{path}: has {len(lines)} lines, but its manifest lists {num_clips} clips; they must agree")
    ids: list[npt.NDArray[np.int32]] = []
    offsets = np.zeros(num_clips + 1, dtype=np.int64)
    unknown: dict[str, int] = {}
    for row, line in enumerate(lines):
        encoded = np.array(dictionary.encode(line), dtype=np.int32)
        if not len(encoded):
            raise DataError(f"{path}:{row + 1}: must hold symbols separated by spaces, got an empty line")
        ids.append(encoded)
        offsets[row + 1] = len(encoded)
        if (encoded == dictionary.unk).any():
            for symbol in line.split():
                if symbol not in dictionary:
                    unknown[symbol] = unknown.get(symbol, 0) + 1
    np.cumsum(offsets, out=offsets)
    flat = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32)
    return Labels(flat, offsets, dictionary.pad, unknown, str(path))
