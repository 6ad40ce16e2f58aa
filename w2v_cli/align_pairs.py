"""Which recordings `w2v-align` aligns with which texts: one pair, a folder of pairs, or a manifest with its labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from w2v.data.audio_files import AUDIO_ENDINGS
from w2v.data.manifest import read_manifest
from w2v.data.text_file import read_lines
from w2v.errors import ConfigError, DataError
from w2v.shards.member import Source

TEXT_ENDINGS = (".txt", ".lab")
LABELS = ".wrd"


@dataclass(frozen=True)
class Pair:
    """A recording and its text.

    Attributes:
        name: of the recording, relative to the folder or the root of the manifest; result files are called after it.
        path: under which it is opened.
        text: file of the text; None: `line` is the text.
        line: the text of one line of a label file.
    """

    name: str
    path: Source
    text: Path | None = None
    line: str = ""

    def lines(self) -> list[str]:
        """Return the text.

        Raises:
            DataError: its file cannot be read.
        """
        return [self.line] if self.text is None else read_lines(self.text, "text")


def find_pairs(audio: str, text: str | None, *, allow_outside_root: bool = False) -> list[Pair]:
    """Find recordings and their texts, in the order of their names or of the manifest.

    Args:
        audio: recording, folder, or manifest (`.tsv`).
        text: file of the text, or of the lines of a manifest; None: the file beside with the same name and another
            ending: `.txt` or `.lab`, of a manifest `.wrd`.
        allow_outside_root: take names of a manifest that lead out of its root.

    Raises:
        DataError: there is nothing to align, or the lines of a manifest and of its labels do not agree.
    """
    if os.path.isdir(audio):
        if text is not None:
            raise ConfigError(f"the texts of a folder lie beside its recordings: leave out {text}")
        return _of_folder(Path(audio))
    if audio.endswith(".tsv"):
        return _of_manifest(Path(audio), text, allow_outside_root=allow_outside_root)
    found = Path(text) if text is not None else _beside(Path(audio))
    if found is None:
        endings = " or ".join(TEXT_ENDINGS)
        raise ConfigError(f"{audio}: no text: name its file after it, or put one with the ending {endings} beside it")
    return [Pair(Path(audio).name, audio, found)]


def _beside(audio: Path) -> Path | None:
    paths = (audio.with_suffix(ending) for ending in TEXT_ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _of_folder(folder: Path) -> list[Pair]:
    pairs = []
    for where, folders, files in os.walk(folder):
        folders.sort()
        texts = {Path(name).stem: name for name in sorted(files) if name.lower().endswith(TEXT_ENDINGS)}
        for name in sorted(files):
            stem, ending = os.path.splitext(name)
            if stem in texts and ending.lower().lstrip(".") in AUDIO_ENDINGS:
                path = Path(where, name)
                pairs.append(Pair(str(path.relative_to(folder)), str(path), Path(where, texts[stem])))
    if not pairs:
        raise DataError(f"{folder}: holds no recording with a {' or '.join(TEXT_ENDINGS)} file of its name beside it")
    return pairs


def _of_manifest(path: Path, text: str | None, *, allow_outside_root: bool) -> list[Pair]:
    manifest = read_manifest(path, allow_outside_root=allow_outside_root)
    labels = Path(text) if text is not None else path.with_suffix(LABELS)
    lines: Sequence[str] = read_lines(labels, "labels")
    if len(lines) != len(manifest):
        raise DataError(f"{labels}: {len(lines)} lines, but {path} lists {len(manifest)} recordings")
    return [Pair(manifest.title(row), manifest.source_of(row), None, line) for row, line in enumerate(lines)]
