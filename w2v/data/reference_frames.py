"""Which word or phone is spoken in each frame: read from lines of symbols, or from words and their times (CTM)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from w2v.data.labels import read_references
from w2v.data.manifest import Manifest
from w2v.data.text_file import read_lines
from w2v.errors import DataError

SILENCE = "<sil>"


class ReferenceFrames:
    """Symbols over time, by clip.

    Args:
        path: a line of symbols per clip of the manifest; or, where it ends in `.ctm`, lines
            `file channel start duration word`, as `w2v-align` writes them.
        clips: the clips.
        rate: symbols per second, where the file holds lines.

    Raises:
        DataError: the file cannot be read, or does not fit the manifest.
    """

    def __init__(self, path: Path, clips: Manifest, rate: float) -> None:
        self._clips, self._rate, self._path = clips, rate, path
        self._lines: list[str] = []
        self._words: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        if path.suffix != ".ctm":
            self._lines = read_references(path, len(clips))
            return
        for number, line in enumerate(read_lines(path, "reference"), start=1):
            fields = line.split()
            try:
                self._words[fields[0]].append((float(fields[2]), float(fields[3]), fields[4]))
            except (IndexError, ValueError):
                raise DataError(f"{path}:{number}: must be: file channel start duration word; got {line!r}") from None

    def symbols(self, row: int, count: int, rate: float) -> Sequence[str]:
        """Return the symbol in the middle of each of `count` frames of clip `row`, `rate` of them per second."""
        times = (np.arange(count) + 0.5) / rate
        if self._lines:
            given = self._lines[row].split()
            if not given:
                raise DataError(f"{self._path}:{row + 1}: must hold symbols separated by spaces, got an empty line")
            return [given[min(place, len(given) - 1)] for place in (times * self._rate).astype(int).tolist()]
        name = PurePosixPath(self._clips.name(row))
        words = self._words.get(name.stem) or self._words.get(str(name.with_suffix(""))) or self._words.get(str(name))
        found = np.full(count, SILENCE, dtype=object)
        for start, duration, word in words or ():
            found[(times >= start) & (times < start + duration)] = word
        return list(found)
