"""`w2v-labels`: write the letters and words of every clip of a manifest, line by line.

Texts come from LibriSpeech's `*.trans.txt` files beside the audio, as in the original's `libri_labels.py`, or from
one file of `path TAB TEXT` lines. Line i of every file written belongs to clip i of the manifest, always.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2v.config import ArgumentParser, arg, build_config
from w2v.data.dictionary import write_dictionary
from w2v.data.manifest import Manifest, read_manifest, write_manifest
from w2v.data.text_file import read_lines
from w2v.errors import DataError
from w2v.files import write_atomically
from w2v_cli.main import run

PROGRAM = "w2v-labels"
NAMED = 5  # examples given in a message


@dataclass(frozen=True)
class LabelsConfig:
    """Where texts come from, and where labels go."""

    tsv: str = arg(help="manifest whose clips get labels, such as DATA/train.tsv", positional=True)
    output_dir: str = arg(help="folder to write to; made where it is missing")
    output_name: str = arg(help="name of the split: writes NAME.ltr and NAME.wrd")
    transcripts: str | None = arg(
        None,
        help="file of `path TAB TEXT` lines, paths relative to the manifest's root "
        "(default: LibriSpeech's *.trans.txt files beside the audio)",
    )
    dict: bool = arg(False, help="also write dict.ltr.txt, the letters of these texts by falling count")
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")
    drop_missing: bool = arg(
        False, help="leave out clips without text, and write NAME.tsv without them to the output folder"
    )


@dataclass(frozen=True)
class Texts:
    """Texts of clips.

    Attributes:
        by_clip: words of each clip of the manifest, in its order; None where there is no text.
        unused: names of texts for which the manifest has no clip.
    """

    by_clip: list[str | None]
    unused: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `w2v-labels`."""
    return run(lambda: _write(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> LabelsConfig:
    parser = ArgumentParser(prog=PROGRAM, description="Write the letters and words of every clip of a manifest.")
    parser.add_config(LabelsConfig, "options")
    return build_config(LabelsConfig, parser.parse(sys.argv[1:] if argv is None else argv), PROGRAM)


def _write(config: LabelsConfig) -> int:
    manifest = read_manifest(config.tsv, allow_outside_root=config.allow_outside_root)
    texts = read_transcripts(config.transcripts, manifest) if config.transcripts else read_librispeech(manifest)
    missing = [row for row, text in enumerate(texts.by_clip) if text is None]
    if len(missing) == len(manifest):
        raise DataError(_nothing_fits(config, manifest, texts))
    if missing and not config.drop_missing:
        raise DataError(
            f"{config.tsv}: {len(missing)} of {len(manifest)} clips have no text: "
            f"{_examples([manifest.name(row) for row in missing])}; --drop-missing leaves them out"
        )
    folder = Path(config.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"--output-dir: cannot make the folder {folder}: {e.strerror or e}") from e
    words = [text for text in texts.by_clip if text is not None]
    letters = [spell(text) for text in words]
    if config.drop_missing:
        kept = [row for row, text in enumerate(texts.by_clip) if text is not None]
        names, sizes = [manifest.name(row) for row in kept], [int(manifest.sizes[row]) for row in kept]
        write_manifest(folder / f"{config.output_name}.tsv", manifest.root, names, sizes)
    write_atomically(folder / f"{config.output_name}.wrd", _lines(words))
    write_atomically(folder / f"{config.output_name}.ltr", _lines(letters))
    if config.dict:
        write_dictionary(folder / "dict.ltr.txt", Counter(symbol for line in letters for symbol in line.split()))
    print(_summary(config, manifest, texts, missing), flush=True)
    return 0


def spell(words: str) -> str:
    """Return the letters of words separated by spaces; `|` ends each word."""
    return " ".join(words.replace(" ", "|")) + " |"


def read_transcripts(path: str, manifest: Manifest) -> Texts:
    """Read a file of `path TAB TEXT` lines and match it with a manifest.

    Raises:
        DataError: the file cannot be read, a line has no tab, a text holds `|`, or a path has two texts.
    """
    texts: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "file of transcripts"), start=1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{path}:{number}: must be path TAB TEXT, got {line[:200]!r}")
        name = os.path.normpath(name)
        words = _words(text, f"{path}:{number}")
        if texts.setdefault(name, words) != words:
            raise DataError(f"{path}:{number}: {name!r} has another text in an earlier line")
    return _match(manifest, texts, os.path.normpath)


def read_librispeech(manifest: Manifest) -> Texts:
    """Read `{speaker}-{chapter}.trans.txt` from the folder of every clip, as the original does.

    A clip's id is its file name up to the first dot. Differs from the original: a missing file or line is no
    assertion but a clip without text.

    Raises:
        DataError: a file of transcripts cannot be read, or a text holds `|`.
    """
    texts: dict[str, str] = {}
    folders = dict.fromkeys(os.path.dirname(manifest.name(row)) for row in range(len(manifest)))
    for folder in folders:
        place = os.path.join(manifest.root, folder) if folder else manifest.root
        parts = os.path.normpath(place).split(os.sep)
        path = os.path.join(place, f"{'-'.join(parts[-2:])}.trans.txt")
        if not os.path.exists(path):
            continue
        for number, line in enumerate(read_lines(path, "file of transcripts"), start=1):
            name, _, text = line.strip().partition(" ")
            if name:
                texts[os.path.join(folder, name)] = _words(text, f"{path}:{number}")
    return _match(manifest, texts, _clip_id)


def _match(manifest: Manifest, texts: Mapping[str, str], key: Callable[[str], str]) -> Texts:
    keys = [key(manifest.name(row)) for row in range(len(manifest))]
    used = set(keys)
    # An empty text is none: a model learns nothing from a clip whose only label is a word boundary.
    return Texts([texts.get(name) or None for name in keys], [name for name in texts if name not in used])


def _clip_id(name: str) -> str:
    folder, file = os.path.split(name)
    return os.path.join(folder, file.split(".")[0])


def _words(text: str, where: str) -> str:
    if "|" in text:
        raise DataError(f"{where}: the text must not hold '|', which stands for the end of a word")
    return " ".join(text.split())


def _nothing_fits(config: LabelsConfig, manifest: Manifest, texts: Texts) -> str:
    clip = f"the first clip of {config.tsv} is {manifest.name(0)!r}"
    if config.transcripts is None:
        return f"no clip has a text in a *.trans.txt file beside it ({clip}); give texts with --transcripts"
    if not texts.unused:
        return f"{config.transcripts}: holds no texts for the clips of {config.tsv}"
    return f"{config.transcripts}: no path in it is one of the manifest's: {clip}, the first path {texts.unused[0]!r}"


def _summary(config: LabelsConfig, manifest: Manifest, texts: Texts, missing: list[int]) -> str:
    name = config.output_name
    parts = [f"{name}.ltr, {name}.wrd: {len(manifest) - len(missing)} lines"]
    if missing:
        names = _examples([manifest.name(row) for row in missing])
        parts.append(f"{name}.tsv: without {len(missing)} clips that have no text: {names}")
    if texts.unused:
        parts.append(f"{len(texts.unused)} texts have no clip in {config.tsv}: {_examples(texts.unused)}")
    return "; ".join(parts)


def _examples(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


if __name__ == "__main__":
    sys.exit(main())
