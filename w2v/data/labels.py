"""Label files: line i belongs to clip i of the manifest.

All ids live in one flat array, as the names of a manifest do. What turns a transcript into a label line is in the
program `w2v-labels`; what turns ids back into words is in `dictionary` and `post_process`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2v.data.dictionary import Dictionary
from w2v.data.text import WORD_END
from w2v.data.text_blocks import check_utf8, read_blocks
from w2v.data.text_file import read_lines
from w2v.errors import DataError, listed

Codes = npt.NDArray[np.unsignedinteger]
Mask = npt.NDArray[np.bool_]

NEWLINE = 10
MOST_UNKNOWN = 0.5  # share of letters; in another case, or where words are not spelled, only marks are still known
_WHITE = np.array([chr(code).isspace() for code in range(0x3002)])  # what str.split() takes for white space


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
        word_end: id of the mark at the end of words; None: the dictionary has none.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    pad: int = Dictionary.pad
    unknown: dict[str, int] = field(default_factory=dict)
    source: str = ""
    word_end: int | None = None

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
        shown = listed([f"{symbol!r} ({self.unknown[symbol]})" for symbol in common])
        return (
            f"{self.source}: {self.num_unknown} of {len(self.ids)} symbols are not in the dictionary "
            f"and become <unk>: {shown}"
        )

    def frames_needed(self) -> npt.NDArray[np.int64]:
        """Return (N,) the fewest frames in which CTC can write each clip's labels: a blank parts equal neighbours."""
        ids, offsets = self.ids, self.offsets
        equal = np.zeros(len(ids) + 1, dtype=np.int64)
        equal[2:] = np.cumsum(ids[1:] == ids[:-1])
        # Of the pairs that end in a clip, those with the clip's first symbol belong to two clips.
        pairs = equal[offsets[1:]] - equal[np.minimum(offsets[:-1] + 1, offsets[1:])]
        needed: npt.NDArray[np.int64] = np.diff(offsets) + pairs
        return needed

    def check_known(self) -> None:
        """Check that labels and dictionary belong together.

        Raises:
            DataError: most symbols are unknown, or the mark at the end of words is.
        """
        marks = int((self.ids == self.word_end).sum()) if self.word_end is not None else 0
        if self.num_unknown > MOST_UNKNOWN * (len(self.ids) - marks):
            raise DataError(
                f"{self.unknown_warning()}; labels and dictionary do not belong together: write both with w2v-labels"
            )
        if WORD_END in self.unknown:
            raise DataError(
                f"{self.source}: the dictionary lacks '{WORD_END}', which ends each word here: words would be glued "
                f"together, and wer would be 100; add the line '{WORD_END} 1' to the dictionary"
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
        DataError: the file cannot be read, has another number of lines, or a line without symbols, or with
            one of `<s>`, `<pad>`, `</s>`; `<unk>` counts as unknown.
    """
    encode = _encoder(dictionary)
    ids = bytearray()  # of int32; grows in place, so that nothing is ever held twice
    counts: list[npt.NDArray[np.int64]] = []
    unknown: Counter[str] = Counter()
    line = 1
    for block in read_blocks(str(path), "label file"):
        check_utf8(block, str(path), line)
        text = block.decode().removeprefix("\ufeff" if line == 1 else "")
        codes = _codes(text)
        visible = ~np.take(_WHITE, codes, mode="clip")
        counts.append(_symbols_per_line(codes, visible))
        ids += encode(text, codes, visible, unknown).data
        line += len(counts[-1])
    lengths = np.concatenate([np.zeros(1, dtype=np.int64), *counts])
    if len(lengths) - 1 != num_clips:
        number = min(len(lengths) - 1, num_clips) + 1
        which = f"line {number} has no clip" if len(lengths) > num_clips else f"clip {number} has no line"
        raise DataError(
            f"{path}: has {len(lengths) - 1} lines, but its manifest lists {num_clips} clips; they must agree: {which}"
        )
    empty = np.flatnonzero(lengths[1:] == 0)
    if len(empty):
        raise DataError(f"{path}:{empty[0] + 1}: must hold symbols separated by spaces, got an empty line")
    offsets, found = np.cumsum(lengths), np.frombuffer(ids, np.int32)
    # <s> is the blank of CTC, <pad> fills up rows, </s> is never written: as labels they could not be learnt.
    special = np.flatnonzero(found < dictionary.unk)
    if len(special):
        line = int(np.searchsorted(offsets, special[0], "right"))
        raise DataError(
            f"{path}:{line}: must not hold {dictionary.symbols[found[special[0]]]!r}, which has a meaning of its own "
            f"({len(special)} special symbols in all); w2v-labels leaves them out"
        )
    word_end = dictionary.index(WORD_END) if WORD_END in dictionary else None
    return Labels(found, offsets, dictionary.pad, dict(unknown), str(path), word_end)


def join_labels(parts: Sequence[Labels]) -> Labels:
    """Return the labels of several label files of one dictionary, one after the other."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(len(part.ids) for part in parts)])
    offsets = [part.offsets[:-1] + shift for part, shift in zip(parts, shifts, strict=False)]
    unknown: Counter[str] = Counter()
    for part in parts:
        unknown.update(part.unknown)
    return Labels(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([*offsets, shifts[-1:]]),
        parts[0].pad,
        dict(unknown),
        ", ".join(part.source for part in parts),
        parts[0].word_end,
    )


def read_references(path: str | Path, num_clips: int) -> list[str]:
    """Read a label file as text, for scores: what the dictionary lacks stays as it is, and a line may be empty.

    Returns:
        the symbols of each clip, one space between them.

    Raises:
        DataError: the file cannot be read, or has another number of lines.
    """
    lines = [" ".join(line.split()) for line in read_lines(path, "label file")]
    if len(lines) != num_clips:
        raise DataError(f"{path}: has {len(lines)} lines, but its manifest lists {num_clips} clips; they must agree")
    return lines


def _codes(text: str) -> Codes:
    """Return code points; in bytes, which are faster, where all are small."""
    if text.isascii():
        return np.frombuffer(text.encode(), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _symbols_per_line(codes: Codes, visible: Mask) -> npt.NDArray[np.int64]:
    begins = visible.copy()
    begins[1:] &= ~visible[:-1]
    ends = np.flatnonzero(codes == NEWLINE)
    if codes[-1:].tolist() != [NEWLINE]:
        ends = np.append(ends, len(codes) - 1)  # the last line may lack its end
    return (
        np.diff(np.cumsum(begins, dtype=np.int32)[ends], prepend=0).astype(np.int64)
        if len(codes)
        else np.zeros(1, dtype=np.int64)
    )


def _encoder(dictionary: Dictionary) -> Callable[[str, Codes, Mask, Counter[str]], npt.NDArray[np.int32]]:
    """Return what turns lines into ids, and counts symbols that the dictionary lacks."""
    # Letters, which nearly all labels are, need no strings: their code points are looked up.
    letters = np.full(0x110000, dictionary.unk, dtype=np.int32)
    for number, symbol in enumerate(dictionary.symbols):
        if len(symbol) == 1:
            letters[ord(symbol)] = number

    def encode(text: str, codes: Codes, visible: Mask, unknown: Counter[str]) -> npt.NDArray[np.int32]:
        if (visible[1:] & visible[:-1]).any():
            symbols = text.split()
            ids = np.fromiter(map(dictionary.index, symbols), dtype=np.int32, count=len(symbols))
            unknown.update(symbols[place] for place in np.flatnonzero(ids == dictionary.unk).tolist())
            return ids
        ids = letters[codes[visible]]
        unknown.update(map(chr, codes[visible][ids == dictionary.unk].tolist()))
        return ids

    return encode
